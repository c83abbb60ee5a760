//! The session that this container is: its files, its executions, the identifiers it is called by.

use std::time::SystemTime;

use tokio::sync::{RwLock, watch};
use uuid::Uuid;

use crate::adapter::files::{FileStore, Transfers};
use crate::adapter::session::identifiers::IdentifierLog;
use crate::adapter::session::registry::ExecutionRegistry;
use crate::adapter::session::turns::Turns;

/// The session's state. Deleting the session clears its files, executions and identifiers.
#[derive(Debug)]
pub struct Session {
    pub files: FileStore,
    /// Bounds the concurrent transfers of files.
    pub transfers: Transfers,
    /// The executions under way, and the results of those that have ended.
    pub executions: ExecutionRegistry,
    /// Whose turn it is among the cells of each kernel.
    pub turns: Turns,
    /// The identifiers that clients have used.
    pub identifiers: IdentifierLog,
    /// Executions hold it for reading, a deletion of the session holds it for writing.
    pub reset_lock: RwLock<()>,
    /// The value of the header `x-ms-session-guid`.
    pub guid: Uuid,
    /// When the session began.
    pub created_at: SystemTime,
    cancellations: watch::Sender<()>,
}

impl Session {
    /// A new session with these files.
    pub fn new(files: FileStore) -> Self {
        Self {
            files,
            transfers: Transfers::default(),
            executions: ExecutionRegistry::default(),
            turns: Turns::default(),
            identifiers: IdentifierLog::default(),
            reset_lock: RwLock::new(()),
            guid: Uuid::new_v4(),
            created_at: SystemTime::now(),
            cancellations: watch::Sender::new(()),
        }
    }

    /// Cancels every execution under way.
    pub fn cancel_executions(&self) {
        self.executions.cancel_all();
        self.cancellations.send_replace(());
    }

    /// Resolves at the next call of [`cancel_executions`](Self::cancel_executions).
    pub async fn canceled(&self) {
        // The sender lives as long as `self`, so that the wait cannot fail.
        let _ = self.cancellations.subscribe().changed().await;
    }
}
