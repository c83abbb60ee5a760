//! The client of a Piston API on loopback.

/// Talks to one Piston API.
#[derive(Debug, Clone)]
pub struct Client;

/// What bounds a [`Client`]'s exchanges.
#[derive(Debug, Clone)]
pub struct ClientLimits;

/// Why there is no answer to use.
#[derive(Debug, thiserror::Error)]
#[error("not yet")]
pub struct ClientError;
