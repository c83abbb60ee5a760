//! How an execution is run: translation to the wire of a Piston engine and back.

pub mod last_expression;
mod stderr;
pub mod translate;
pub mod value;
