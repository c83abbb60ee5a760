//! Which layers contain the jobs of a spawner.

use std::path::PathBuf;

use super::protocol::Setup;
use super::report::Layer;
use super::seccomp::Filters;

/// What every job of a spawner is contained by.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) filters: Option<Filters>,
    pub(super) landlock: bool,
    pub(super) limits: bool,
    pub(super) sweep: bool,
    pub(super) allow_network: bool,
    pub(super) data_dir: PathBuf,
    /// User and group to whom what jobs leave in the data directory is given.
    pub(super) service: Option<u32>,
}

impl Policy {
    /// What is asked for. A filter that cannot be compiled is a layer that is missing.
    pub(super) fn new(setup: &Setup, data_dir: PathBuf, service: Option<u32>) -> Self {
        let wants = |layer| !setup.without.contains(&layer);
        Self {
            filters: wants(Layer::Seccomp)
                .then(|| Filters::compile(setup.allow_network).ok())
                .flatten(),
            landlock: wants(Layer::Landlock),
            limits: wants(Layer::Limits),
            sweep: wants(Layer::Sweep),
            allow_network: setup.allow_network,
            data_dir,
            service,
        }
    }
}
