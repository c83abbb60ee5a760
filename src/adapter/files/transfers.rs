//! How many lists, uploads and downloads there may be at a time.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// What may be done with files at a time. An upload or download holds descriptors and some hundred
/// kilobytes, a list some megabytes.
#[derive(Debug)]
pub struct Transfers {
    pub lists: Arc<Semaphore>,
    pub uploads: Arc<Semaphore>,
    pub downloads: Arc<Semaphore>,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            lists: Arc::new(Semaphore::new(4)),
            uploads: Arc::new(Semaphore::new(8)),
            downloads: Arc::new(Semaphore::new(64)),
        }
    }
}
