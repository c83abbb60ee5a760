//! The Python packages that programs can use, once they are known.

use std::sync::OnceLock;

use crate::adapter::model::package::Package;

/// The packages, once they are known.
#[derive(Debug, Default)]
pub struct Packages {
    /// Set by the first who asks.
    pub found: OnceLock<Vec<Package>>,
}
