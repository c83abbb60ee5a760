//! Landlock: which files a job can see and change, and who it can signal. A bonus, for some
//! kernels do not have it; what must hold everywhere is held by user ids and modes.

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, Ruleset,
    RulesetAttr, RulesetCreatedAttr, Scope, path_beneath_rules,
};

/// The newest rules that this program knows; of these, those that the kernel has are used.
const NEWEST: ABI = ABI::V6;

/// Folders in `/` that hold programs, their libraries and what they need to know. No file in
/// others, such as `/root`, `/home`, `/run`, `/srv` and `/mnt`, can be read.
const READABLE: [&str; 14] = [
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/nix",
    "/snap", "/proc", "/sys", "/dev",
];

/// Shared places that programs expect to be able to write; they are swept after each job.
pub(super) const SHARED: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// Devices that programs write to.
const DEVICES: [&str; 8] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/pts",
];

/// Limits this process, and all that it will start, to these files.
///
/// Returns the version of the rules that the kernel has, and `None` where it has none.
///
/// # Errors
/// Where the kernel refuses rules that it says it has.
pub(super) fn limit(
    readable: &[PathBuf],
    writable: &[PathBuf],
    allow_network: bool,
) -> io::Result<Option<u8>> {
    let read = AccessFs::from_read(NEWEST);
    let all = AccessFs::from_all(NEWEST);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)
        .map_err(io::Error::other)?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)
        .map_err(io::Error::other)?;
    if !allow_network {
        ruleset = ruleset
            .handle_access(AccessNet::from_all(NEWEST))
            .map_err(io::Error::other)?;
    }
    let status = ruleset
        .create()
        // Names may be listed wherever modes allow it: programs expect to see what is in `/`.
        .and_then(|rules| rules.add_rules(path_beneath_rules(["/"], AccessFs::ReadDir)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(READABLE, read)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(readable, read)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(SHARED, all)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(DEVICES, all)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(writable, all)))
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(io::Error::other)?;
    Ok(match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => u8::try_from(effective_abi as i32).ok(),
        _ => None,
    })
}

/// The folders in which a program at `path` has what it needs: where it is, where the file is that
/// this is a link to, and what was installed along with that.
pub(in crate::engine) fn installed_with(path: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let real = std::fs::canonicalize(path);
    for place in [Some(path), real.as_deref().ok()].into_iter().flatten() {
        let Some(folder) = place.parent() else {
            continue;
        };
        folders.push(folder.to_path_buf());
        // `bin` stands beside `lib` and `share`. A `bin` in a home is not there for one program.
        let beside = folder.parent().filter(|_| folder.ends_with("bin"));
        let is_home = |path: &Path| {
            path.parent().is_none()
                || path == Path::new("/root")
                || path.parent() == Some(Path::new("/home"))
        };
        folders.extend(beside.filter(|path| !is_home(path)).map(Path::to_path_buf));
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
