//! What a process and those below it use, and where they may run.

use std::fs;
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_setaffinity};

/// A process that ends with this value.
#[derive(Debug)]
pub struct Started(pub Child);

impl Started {
    /// It, and all below it.
    fn tree(&self) -> Vec<u32> {
        let mut found = vec![self.0.id()];
        let mut at = 0;
        while let Some(pid) = found.get(at).copied() {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            let children = children.unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
            at += 1;
        }
        found
    }

    fn threads(&self) -> Vec<String> {
        let tasks = |pid: u32| {
            fs::read_dir(format!("/proc/{pid}/task"))
                .into_iter()
                .flatten()
        };
        let paths = self.tree().into_iter().flat_map(tasks).flatten();
        paths
            .map(|task| task.path().display().to_string())
            .collect()
    }

    /// Resident memory in MB.
    pub fn resident(&self) -> f64 {
        let kib = |pid: u32| -> Option<f64> {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.trim().split(' ').next()?.parse().ok()
        };
        self.tree().into_iter().filter_map(kib).sum::<f64>() / 1024.0
    }

    /// CPU time so far in microseconds.
    pub fn cpu(&self) -> f64 {
        let nanos = |task: &String| -> Option<f64> {
            let stat = fs::read_to_string(format!("{task}/schedstat")).ok()?;
            stat.split(' ').next()?.parse().ok()
        };
        self.threads().iter().filter_map(nanos).sum::<f64>() / 1e3
    }

    /// Lets it run on these cores only.
    pub fn keep_to(&self, cores: &CpuSet) {
        for task in self.threads() {
            let number = task.rsplit('/').next().and_then(|tid| tid.parse().ok());
            if let Some(pid) = number.and_then(Pid::from_raw) {
                // A thread may have ended.
                let _ = sched_setaffinity(Some(pid), cores);
            }
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}
