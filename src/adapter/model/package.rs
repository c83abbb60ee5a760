//! A Python package.

use serde::{Deserialize, Serialize};

/// A package that programs can use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    pub name: String,
    pub version: String,
}
