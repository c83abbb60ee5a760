//! What the layers hand to each other: data, without behaviour that reaches out.

pub mod execution;
pub mod identifier;
pub mod operation_id;
pub mod outcome;
pub mod package;
pub mod timestamp;
pub mod timings;
pub mod trace;
