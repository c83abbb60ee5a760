//! Recorded exchanges, and replaying them against a running adapter.
//!
//! A fixture is one exchange: what a client sends, what Piston is asked for it and answered when
//! it was recorded, and what the client gets. `fixtures/README.md` describes the files. The tests
//! replay each against an adapter that has the recording in Piston's place; [`replay`] sends those
//! that any engine must answer alike to an adapter that runs somewhere, a session image in its own
//! CI for instance.

mod fixture;
mod live;
mod matching;
mod report;
mod response;

pub use fixture::{
    AzureRequest, AzureResponse, Fixture, FixtureError, Headers, PistonExchange, PistonRequest,
    PistonResponse, Recorded, load,
};
pub use live::{Caller, ReplayError, replay, replay_with};
pub use matching::{
    Difference, header_difference, json_difference, request_difference, response_difference,
};
pub use report::{Line, ReplayOutcome, ReplayReport};
pub use response::Response;
