//! Landlock rules: which files a job can read and write, and which processes it can signal.
//!
//! Some kernels do not have Landlock, so nothing that must hold everywhere may depend on it; user ids
//! and file modes provide that.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, Ruleset,
    RulesetAttr, RulesetCreatedAttr, Scope, path_beneath_rules,
};

pub(super) use landlock::RulesetError;

/// The newest ABI that this program knows. The rules that the kernel does not support are left out.
const MAX_ABI: ABI = ABI::V6;

/// Directories with programs, their libraries and their configuration. Files in others, such as
/// `/root`, `/home`, `/run`, `/srv` and `/mnt`, cannot be read.
const SYSTEM_DIRS: [&str; 14] = [
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/nix",
    "/snap", "/proc", "/sys", "/dev",
];

/// Shared directories that programs expect to be writable. They are swept after each job.
pub(super) const SHARED_DIRS: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

const WRITABLE_DEVICES: [&str; 8] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/pts",
];

/// What every job may reach, without what is not there or within something else, so that there are as few
/// rules as possible: each job has to make its own.
#[derive(Debug)]
pub(super) struct CommonFiles {
    readable: Vec<&'static str>,
    writable: Vec<&'static str>,
}

impl CommonFiles {
    pub(super) fn find() -> Self {
        // `/bin` is mostly a link to `/usr/bin`, and so on.
        let is_within_usr = |path: &Path| path.starts_with("/usr") && path != Path::new("/usr");
        let find = |paths: &[&'static str]| {
            let is_needed =
                |path: &&str| std::fs::canonicalize(path).is_ok_and(|real| !is_within_usr(&real));
            paths.iter().copied().filter(is_needed).collect()
        };
        Self {
            readable: find(&SYSTEM_DIRS),
            writable: find(&[SHARED_DIRS.as_slice(), &WRITABLE_DEVICES].concat()),
        }
    }
}

/// Restricts this process, and everything that it will start, to these files.
///
/// Returns the version of the ABI in use, or `None` if the kernel does not have Landlock.
///
/// # Errors
/// If the kernel refuses rules that it claims to support.
pub(super) fn restrict(
    common: &CommonFiles,
    readable: &[PathBuf],
    writable: &[PathBuf],
    allow_network: bool,
) -> Result<Option<u8>, RulesetError> {
    let read = AccessFs::from_read(MAX_ABI);
    let all = AccessFs::from_all(MAX_ABI);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?;
    if !allow_network {
        ruleset = ruleset.handle_access(AccessNet::from_all(MAX_ABI))?;
    }
    let status = ruleset
        .create()
        // Directories may be listed wherever modes allow it: programs expect to see what is in `/`.
        .and_then(|rules| rules.add_rules(path_beneath_rules(["/"], AccessFs::ReadDir)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(&common.readable, read)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(&common.writable, all)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(readable, read)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(writable, all)))
        .and_then(landlock::RulesetCreated::restrict_self)?;
    Ok(match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => u8::try_from(effective_abi as i32).ok(),
        _ => None,
    })
}

/// The directories that the program at `path` needs to read: its own, that of the file to which it is
/// a link, and for each of these the prefix that it was installed to.
pub(in crate::engine) fn installed_with(path: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let real = std::fs::canonicalize(path);
    for place in [Some(path), real.as_deref().ok()].into_iter().flatten() {
        let Some(folder) = place.parent() else {
            continue;
        };
        folders.push(folder.to_path_buf());
        // A `bin` has `lib` and `share` next to it. But a `bin` in a home directory belongs to a person
        // and not to one program, so the home stays closed.
        let prefix = folder.parent().filter(|_| folder.ends_with("bin"));
        let is_home = |path: &Path| {
            path.parent().is_none()
                || path == Path::new("/root")
                || path.parent() == Some(Path::new("/home"))
        };
        folders.extend(prefix.filter(|path| !is_home(path)).map(Path::to_path_buf));
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_not_opened_for_a_program_in_its_bin() {
        assert_eq!(
            installed_with(Path::new("/root/bin/x")),
            [PathBuf::from("/root/bin")]
        );
        assert!(installed_with(Path::new("/opt/py/bin/x")).contains(&PathBuf::from("/opt/py")));
    }
}
