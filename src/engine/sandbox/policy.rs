//! The layers that a spawner applies to its jobs.
//!
//! The policy starts as what the setup asks for; [`probe`](super::probe) removes what the machine
//! does not have. It is fixed before the first job.

use std::path::PathBuf;

use super::files::CommonFiles;
use super::protocol::Setup;
use super::report::Layer;
use super::seccomp::Filters;
use super::slots::Block;

/// How every job of a spawner is contained.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) filters: Option<Filters>,
    pub(super) landlock: bool,
    pub(super) common_files: CommonFiles,
    pub(super) limits: bool,
    pub(super) sweep: bool,
    pub(super) allow_network: bool,
    pub(super) data_dir: PathBuf,
    /// The ids that jobs run with, if they have users of their own.
    pub(super) block: Option<Block>,
}

impl Policy {
    /// The policy that the setup asks for. A filter that cannot be compiled counts as a missing layer,
    /// which the engine then judges like any other.
    pub(super) fn new(setup: &Setup, data_dir: PathBuf, block: Option<Block>) -> Self {
        let wants = |layer| !setup.without.contains(&layer);
        Self {
            filters: wants(Layer::Seccomp)
                .then(|| Filters::compile(setup.allow_network).ok())
                .flatten(),
            landlock: wants(Layer::Landlock),
            common_files: CommonFiles::find(),
            limits: wants(Layer::Limits),
            sweep: wants(Layer::Sweep),
            allow_network: setup.allow_network,
            data_dir,
            block,
        }
    }
}
