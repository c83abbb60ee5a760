//! Accepts connections.

use std::io;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

/// The next connection. Errors of single connections and of a process that is short of descriptors
/// pass; they are waited out.
pub async fn accept(listener: &TcpListener) -> TcpStream {
    let mut wait = Duration::from_millis(5);
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => return stream,
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(1));
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
    )
}
