//! The layers that a spawner applies to its jobs.
//!
//! The policy starts as what the setup asks for; [`probe`](super::probe) removes what the machine
//! does not have. It is fixed before the first job.

use std::io;
use std::path::{Path, PathBuf};

use super::files::{CommonFiles, resolver_files};
use super::namespaces::{DATA_DIR_ALIAS, Namespaces, PRIVATE_TEMP_DIRS, UserNamespace, WORK_DIR};
use super::protocol::Setup;
use super::report::Layer;
use super::seccomp::Filters;
use super::slots::{Block, JobIds};
use super::sys::{self, Fork, SingleThreaded};
use super::workspace::Workspace;

/// How every job of a spawner is contained.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) namespaces: Option<Namespaces>,
    /// Why jobs have no namespaces.
    pub(super) no_namespaces: Option<String>,
    pub(super) filters: Option<Filters>,
    pub(super) landlock: bool,
    pub(super) common_files: CommonFiles,
    pub(super) limits: bool,
    pub(super) sweep: bool,
    pub(super) allow_network: bool,
    /// What a job reads to use the network.
    pub(super) network_files: Vec<PathBuf>,
    pub(super) data_dir: PathBuf,
    /// The ids that jobs run with, if they have users of their own.
    pub(super) block: Option<Block>,
    wants_filters: bool,
}

impl Policy {
    /// The policy that the setup asks for. A filter that cannot be compiled counts as a missing layer,
    /// which the engine then judges like any other.
    pub(super) fn new(setup: &Setup, data_dir: PathBuf, block: Option<Block>) -> Self {
        let wants = |layer| !setup.without.contains(&layer);
        let namespaces = match wants(Layer::Namespaces) {
            true => Namespaces::find(setup.allow_network),
            false => Err("left out".to_owned()),
        };
        let mut policy = Self {
            no_namespaces: namespaces.as_ref().err().cloned(),
            namespaces: namespaces.ok(),
            filters: None,
            landlock: wants(Layer::Landlock),
            common_files: CommonFiles::default(),
            limits: wants(Layer::Limits),
            sweep: wants(Layer::Sweep),
            allow_network: setup.allow_network,
            network_files: match setup.allow_network {
                true => resolver_files(),
                false => Vec::new(),
            },
            data_dir,
            block,
            wants_filters: wants(Layer::Seccomp),
        };
        policy.adapt_to_namespaces();
        policy
    }

    /// Does without namespaces from now on.
    pub(super) fn leave_out_namespaces(&mut self, reason: String) {
        self.namespaces = None;
        self.no_namespaces = Some(reason);
        self.adapt_to_namespaces();
    }

    /// Does without system call filters from now on.
    pub(super) fn leave_out_filters(&mut self) {
        self.wants_filters = false;
        self.filters = None;
    }

    /// The user namespace that jobs get, if they need one.
    pub(super) fn user_namespace(&self) -> Option<UserNamespace> {
        self.namespaces
            .as_ref()
            .and_then(|namespaces| namespaces.user)
    }

    /// Whether the kernel counts the processes of each job, rather than those of its user.
    pub(super) fn counts_processes(&self) -> bool {
        self.user_namespace().is_some()
    }

    /// How many processes of this program's own are above a job's program and count as the job's.
    pub(super) fn processes_above_program(&self) -> usize {
        // Init, and in namespaces their first process.
        1 + usize::from(self.namespaces.is_some())
    }

    /// Forks a process that is going to be confined by this policy.
    ///
    /// # Errors
    /// If the fork fails, or the kernel refuses the namespaces.
    pub(super) fn fork(&self, proof: SingleThreaded) -> io::Result<Fork> {
        match &self.namespaces {
            Some(namespaces) => namespaces.fork(proof),
            None => sys::fork(proof),
        }
    }

    /// What the other layers must do depends on whether there are namespaces.
    fn adapt_to_namespaces(&mut self) {
        let separates_jobs = self.namespaces.is_some() || self.block.is_some();
        self.common_files = CommonFiles::find(separates_jobs);
        let has_network = self.has_network();
        let protects_attributes = !separates_jobs;
        self.filters = self
            .wants_filters
            .then(|| Filters::compile(has_network, protects_attributes).ok())
            .flatten();
    }

    /// Whether jobs have a network of their own.
    pub(super) fn has_own_network(&self) -> bool {
        self.namespaces
            .as_ref()
            .is_some_and(|namespaces| namespaces.has_network)
    }

    /// Whether jobs may open internet sockets: of the machine's network, or of a loopback interface of
    /// their own.
    pub(super) fn has_network(&self) -> bool {
        self.allow_network || self.namespaces.is_some()
    }

    /// Creates the directories of a job.
    ///
    /// # Errors
    /// If the disk is full or permissions are missing.
    pub(super) fn create_workspace(
        &self,
        work: &Path,
        name: &str,
        owner: Option<JobIds>,
    ) -> io::Result<Workspace> {
        let workspace = Workspace::create(work, name, owner)?;
        if self.namespaces.is_some() {
            workspace.create_private_temp_dirs(owner)?;
        }
        Ok(workspace)
    }

    /// The directories of a job, as the job sees them.
    pub(super) fn seen_by_job(&self, workspace: &Workspace) -> Workspace {
        match workspace.root.file_name() {
            Some(name) if self.namespaces.is_some() => Workspace {
                private_temp_dirs: PRIVATE_TEMP_DIRS.map(PathBuf::from),
                ..Workspace::of(Path::new(WORK_DIR), name)
            },
            _ => workspace.clone(),
        }
    }

    /// Everything that a job may write: where it is, and where the job sees it.
    pub(super) fn writable<'a>(
        &'a self,
        workspace: &'a Workspace,
        seen: &'a Workspace,
    ) -> Vec<(&'a Path, &'a Path)> {
        let mut writable = vec![
            (workspace.box_dir.as_path(), seen.box_dir.as_path()),
            (&workspace.temp_dir, &seen.temp_dir),
            (&self.data_dir, &self.data_dir),
        ];
        if self.namespaces.is_some() {
            for (folder, seen) in workspace
                .private_temp_dirs
                .iter()
                .zip(&seen.private_temp_dirs)
            {
                writable.push((folder, seen));
            }
            let alias = Path::new(DATA_DIR_ALIAS);
            if self.data_dir != alias {
                writable.push((&self.data_dir, alias));
            }
        }
        writable
    }
}
