//! What the layers hand to each other: data, without behaviour that reaches out.

pub mod timestamp;
pub mod trace;
