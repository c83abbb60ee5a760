//! The keeper: one process a job, which makes its directory, watches its stages, and leaves
//! nothing of it behind.
//!
//! It is a copy of the spawner, has one thread, and keeps the spawner's rights. It lives until
//! the engine closes the job's socket, which also happens when the engine dies.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use super::protocol::{FileHeader, Order, Report};
use super::slots::Slot;
use super::stage::Stage;
use super::sys::{self, OneThread};
use super::wire::Wire;
use super::workspace::Workspace;

/// Keeps one job; runs in a fresh copy of the spawner. It exits with 0 where the slot is clean.
pub(super) fn keep(proof: OneThread, socket: OwnedFd, slot: Slot, work: &Path, name: &str) -> ! {
    let mut wire = Wire::new(socket);
    let reaper = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let mut workspace = None;
    let mut clean = true;
    if let Err(error) = reaper
        .map_err(Into::into)
        .and_then(|()| serve(proof, &mut wire, slot, work, name, &mut workspace))
    {
        clean = false;
        let _ = wire.send(&Report::Failed(error.to_string()));
    }
    drop(wire);
    if let Some(Err(error)) = workspace.map(|workspace| workspace.delete()) {
        let _ = writeln!(io::stderr(), "a job's directory cannot be deleted: {error}");
        clean = false;
    }
    sys::exit_now(i32::from(!clean))
}

fn serve(
    proof: OneThread,
    wire: &mut Wire,
    slot: Slot,
    work: &Path,
    name: &str,
    place: &mut Option<Workspace>,
) -> io::Result<()> {
    while let Some(order) = wire.receive()? {
        match order {
            Order::Open(files) => {
                let workspace = place.insert(Workspace::create(work, name, slot.uid)?);
                if !write_files(wire, workspace, slot, &files)? {
                    return Ok(());
                }
            }
            Order::Stage(order) => {
                let stdio: [OwnedFd; 3] = Vec::from(wire.take_fds())
                    .try_into()
                    .map_err(|_| io::Error::other("a stage needs three descriptors"))?;
                let workspace = place
                    .as_ref()
                    .ok_or_else(|| io::Error::other("a stage before its files"))?;
                let stage = Stage {
                    proof,
                    wire,
                    workspace,
                    slot,
                    order: &order,
                };
                match stage.run(stdio)? {
                    Some(ended) => wire.send(&Report::Ended(ended))?,
                    None => return Ok(()),
                }
            }
            // The stage that was meant has ended meanwhile.
            Order::Kill => {}
        }
    }
    Ok(())
}

/// Writes the job's files; false where there is no point in going on.
fn write_files(
    wire: &mut Wire,
    workspace: &Workspace,
    slot: Slot,
    files: &[FileHeader],
) -> io::Result<bool> {
    let mut chunk = vec![0; 64 << 10];
    for file in files {
        let mut target = match workspace.create_file(&file.path, slot.uid) {
            Ok(fd) => std::fs::File::from(fd),
            Err(error) => {
                let message = format!("file name {:?} cannot be used: {error}", file.path);
                wire.send(&Report::Refused(message))?;
                return Ok(false);
            }
        };
        let mut left = file.length;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            let part = chunk.get_mut(..most).unwrap_or_default();
            if !wire.fill(part)? {
                return Ok(false);
            }
            target.write_all(part)?;
            left -= part.len() as u64;
        }
    }
    Ok(true)
}
