//! The processes of a job, found and measured by reading `/proc`.
//!
//! A job's processes are the descendants of its keeper. The keeper is the subreaper of all of them
//! (`PR_SET_CHILD_SUBREAPER`), so following parents also finds those that called `setsid` or forked
//! twice. A process cannot change its parent, unlike the owner of its files in `/proc`.
//!
//! Processes may start and end while `/proc` is read; the result is a sample.

use std::collections::HashMap;
use std::io::Read;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The total usage of all descendants of a process.
#[derive(Debug, Clone, Default)]
pub(super) struct Usage {
    /// CPU time, including that of children they have reaped.
    pub(super) cpu: Duration,
    /// Memory in bytes that the kernel cannot drop: anonymous and shared pages, those that were swapped out,
    /// and page tables.
    pub(super) memory: u64,
    /// How many descriptors they have room for in their tables, which is at least as many as are open.
    pub(super) descriptors: u64,
    pub(super) processes: Vec<Process>,
}

/// A process as it was found. Its id may be given to another once it has ended; the time of its start
/// tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// Clock ticks since boot.
    started: u64,
}

impl Process {
    /// Sends a signal, unless the process has ended.
    pub(super) fn signal(self, signal: Signal) {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return;
        };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
            return;
        };
        // From here on the handle stands for this process alone.
        let found = read_stat(self.pid, &mut Vec::new());
        if found.is_some_and(|stat| stat.started == self.started) {
            // Fails if it has ended meanwhile.
            let _ = pidfd_send_signal(&handle, signal);
        }
    }
}

struct ProcessStat {
    parent: i32,
    group: i32,
    /// Whether its main thread has ended. The process goes on while it has others.
    is_zombie: bool,
    threads: u64,
    /// CPU time, including that of children it has reaped.
    ticks: u64,
    reaped_ticks: u64,
    started: u64,
}

/// Adds up the usage of the descendants of `root`.
pub(super) fn usage_below(root: i32, ticks_per_second: u64) -> Usage {
    let mut usage = Usage::default();
    let mut ticks = 0_u64;
    let mut buffer = Vec::with_capacity(4096);
    for (process, stat) in descendants(root, &[]) {
        ticks = ticks.saturating_add(stat.ticks);
        if let Some(status) = read_status(process.pid, &stat, &mut buffer) {
            usage.memory = usage.memory.saturating_add(status.memory);
            usage.descriptors = usage.descriptors.saturating_add(status.descriptors);
        }
        usage.processes.push(process);
    }
    usage.cpu = Duration::from_millis(ticks.saturating_mul(1000) / ticks_per_second.max(1));
    usage
}

/// The descendants of `root` that have not ended, but for `except` and theirs.
pub(super) fn running_below(root: i32, except: &[i32]) -> Vec<Process> {
    descendants(root, except)
        .into_iter()
        .filter_map(|(process, stat)| (!stat.has_ended()).then_some(process))
        .collect()
}

fn descendants(root: i32, except: &[i32]) -> Vec<(Process, ProcessStat)> {
    let mut children: HashMap<i32, Vec<(i32, ProcessStat)>> = HashMap::new();
    for (pid, stat) in all_processes() {
        children.entry(stat.parent).or_default().push((pid, stat));
    }
    let mut found = Vec::new();
    let mut todo = vec![root];
    while let Some(parent) = todo.pop() {
        for (pid, stat) in children.remove(&parent).unwrap_or_default() {
            if !except.contains(&pid) {
                todo.push(pid);
                let started = stat.started;
                found.push((Process { pid, started }, stat));
            }
        }
    }
    found
}

fn all_processes() -> impl Iterator<Item = (i32, ProcessStat)> {
    let mut buffer = Vec::with_capacity(1024);
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(move |entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, read_stat(pid, &mut buffer)?))
        })
}

/// The child of a process that was started first, of those that have not ended. Orphans that a reaper has
/// adopted were started after its own child.
pub(super) fn oldest_child(parent: i32) -> Option<i32> {
    all_processes()
        .filter(|(_, stat)| stat.parent == parent && !stat.has_ended())
        .min_by_key(|(pid, stat)| (stat.started, *pid))
        .map(|(pid, _)| pid)
}

/// A process, its oldest child, the oldest child of that one and so on: at most `count` of them.
pub(super) fn oldest_line(process: i32, count: usize) -> Vec<i32> {
    std::iter::successors(Some(process), |parent| oldest_child(*parent))
        .take(count)
        .collect()
}

/// Memory of one process in bytes, as in [`Usage::memory`].
pub(super) fn current_memory(pid: i32) -> u64 {
    read(&format!("/proc/{pid}/status"), &mut Vec::new())
        .map_or(0, |status| ProcessStatus::parse(status).memory)
}

/// The share of one process in bytes of the memory that it has together with others. What cannot be inspected
/// counts as if it shared nothing.
pub(super) fn share_of_memory(pid: i32) -> u64 {
    let mut buffer = Vec::new();
    let Some(stat) = read_stat(pid, &mut buffer) else {
        return 0;
    };
    let Some(status) = read_status(pid, &stat, &mut buffer) else {
        return 0;
    };
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    // Only a thread that lives has the figures, and the main one may have ended.
    let share = tasks.into_iter().flatten().flatten().find_map(|task| {
        let rollup = std::fs::read_to_string(task.path().join("smaps_rollup"));
        share_in(&rollup.unwrap_or_default())
    });
    share.map_or(status.memory, |share| {
        share.saturating_add(status.page_tables)
    })
}

/// The proportional shares in bytes of what the kernel cannot drop, from `/proc/PID/smaps_rollup`.
fn share_in(rollup: &str) -> Option<u64> {
    let mut share = None;
    for line in rollup.lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        if matches!(name, "Pss_Anon" | "Pss_Shmem" | "SwapPss") {
            share = Some(share.unwrap_or(0_u64).saturating_add(kibibytes(value)));
        }
    }
    share
}

/// A figure such as `12 kB`, in bytes.
fn kibibytes(value: &str) -> u64 {
    let number = value.trim().trim_end_matches(" kB");
    number.parse::<u64>().unwrap_or(0).saturating_mul(1024)
}

/// How many descriptors a process has room for, as in [`Usage::descriptors`]. 0 if it has ended.
pub(super) fn descriptors_of(pid: i32) -> u64 {
    read(&format!("/proc/{pid}/status"), &mut Vec::new())
        .map_or(0, |status| ProcessStatus::parse(status).descriptors)
}

/// CPU time of the children that a process has reaped.
pub(super) fn reaped_cpu(pid: i32, ticks_per_second: u64) -> Duration {
    let ticks = read_stat(pid, &mut Vec::new()).map_or(0, |stat| stat.reaped_ticks);
    Duration::from_millis(ticks.saturating_mul(1000) / ticks_per_second.max(1))
}

/// The process group of a process.
pub(super) fn group_of(pid: i32) -> Option<i32> {
    Some(read_stat(pid, &mut Vec::new())?.group)
}

/// How many processes and threads a user has now. A process that cannot be inspected, like the inits of jobs,
/// seems to be root's and is not counted.
pub(super) fn task_count(uid: u32) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return 0;
    };
    processes
        .flatten()
        .filter(|process| process.metadata().is_ok_and(|found| found.uid() == uid))
        // The directory has a link for each task, and two more.
        .filter_map(|process| std::fs::metadata(process.path().join("task")).ok())
        .fold(0, |sum, tasks| {
            sum.saturating_add(tasks.nlink().saturating_sub(2))
        })
}

fn read_stat(pid: i32, buffer: &mut Vec<u8>) -> Option<ProcessStat> {
    read(&format!("/proc/{pid}/stat"), buffer).and_then(ProcessStat::parse)
}

/// What follows the program's name for itself, which may not be UTF-8 and may contain anything.
fn read<'a>(path: &str, buffer: &'a mut Vec<u8>) -> Option<&'a str> {
    buffer.clear();
    std::fs::File::open(path)
        .and_then(|mut file| file.read_to_end(buffer))
        .ok()?;
    // In `status` it is a line of its own, the first one, in which a line feed is escaped. In `stat` it
    // ends with the last `)`.
    let from = match path.ends_with("/stat") {
        true => buffer.iter().rposition(|byte| *byte == b')')? + 1,
        false => buffer.iter().position(|byte| *byte == b'\n')?,
    };
    std::str::from_utf8(buffer.get(from..)?).ok()
}

/// The status of a process, or of one of its other threads where the main one has ended: only a thread that
/// lives has the figures of its memory.
fn read_status(pid: i32, stat: &ProcessStat, buffer: &mut Vec<u8>) -> Option<ProcessStatus> {
    if !stat.is_zombie {
        return read(&format!("/proc/{pid}/status"), buffer).map(ProcessStatus::parse);
    }
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    tasks
        .flatten()
        .filter_map(|task| {
            let path = task.path().join("status");
            read(path.to_str()?, buffer).map(ProcessStatus::parse)
        })
        .find(|status| status.memory > 0)
}

impl ProcessStat {
    fn has_ended(&self) -> bool {
        self.is_zombie && self.threads <= 1
    }

    /// Parses what follows the program's name in `/proc/PID/stat`, see proc(5): state, ppid, pgrp, … and
    /// fields 14 to 17 (utime, stime, cutime, cstime), 20 (num_threads) and 22 (starttime).
    fn parse(rest: &str) -> Option<Self> {
        let mut fields = rest.split_ascii_whitespace();
        let is_zombie = matches!(fields.next()?, "Z" | "X");
        let parent = fields.next()?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        let mut numbers = fields.skip(8).map(|number| number.parse().unwrap_or(0));
        let mut pair = || Some(u64::saturating_add(numbers.next()?, numbers.next()?));
        let (own_ticks, reaped_ticks) = (pair()?, pair()?);
        Some(Self {
            parent,
            group,
            is_zombie,
            threads: numbers.nth(2)?,
            ticks: own_ticks.saturating_add(reaped_ticks),
            reaped_ticks,
            started: numbers.nth(1)?,
        })
    }
}

/// What is used of `/proc/PID/status`, see proc(5).
struct ProcessStatus {
    /// Bytes, page tables included.
    memory: u64,
    /// Bytes.
    page_tables: u64,
    /// Room in the table of descriptors.
    descriptors: u64,
}

impl ProcessStatus {
    fn parse(status: &str) -> Self {
        let mut parsed = Self {
            memory: 0,
            page_tables: 0,
            descriptors: 0,
        };
        for line in status.lines() {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            match name {
                "RssAnon" | "RssShmem" | "VmSwap" => {
                    parsed.memory = parsed.memory.saturating_add(kibibytes(value));
                }
                "VmPTE" => {
                    parsed.page_tables = kibibytes(value);
                    parsed.memory = parsed.memory.saturating_add(parsed.page_tables);
                }
                "FDSize" => parsed.descriptors = value.trim().parse().unwrap_or(0),
                _ => {}
            }
        }
        parsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_parsed_after_a_name_with_spaces_and_parentheses() {
        let line = "7 (a) b (c)) S 3 7 7 0 -1 4194304 94 10 0 0 1 2 30 40 20 0 1 0 99 2 3";
        let rest = &line[line.rfind(')').unwrap() + 1..];
        let stat = ProcessStat::parse(rest).unwrap();
        assert_eq!((stat.parent, stat.ticks, stat.started), (3, 73, 99));
    }

    #[test]
    fn what_the_kernel_cannot_drop_counts_and_file_pages_do_not() {
        let status = "Name:\tx\nFDSize:\t64\nRssAnon:\t     100 kB\nRssFile:\t    5000 kB\n\
                      RssShmem:\t 28 kB\nVmPTE:\t 16 kB\nVmSwap:\t       4 kB\n";
        let parsed = ProcessStatus::parse(status);
        assert_eq!(parsed.memory, 148 * 1024);
        assert_eq!(parsed.descriptors, 64);
    }

    /// A child that sleeps, as it is found.
    fn sleeping_child() -> (std::process::Child, i32, Process) {
        let child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        let mut found = running_below(me, &[]).into_iter();
        let is_child = |one: &Process| u32::try_from(one.pid) == Ok(child.id());
        let process = found.find(is_child).unwrap();
        (child, me, process)
    }

    #[test]
    fn a_child_is_found_below_its_parent_unless_it_is_excepted() {
        let (mut child, me, process) = sleeping_child();
        assert!(usage_below(me, 100).processes.contains(&process));
        assert!(!running_below(me, &[process.pid]).contains(&process));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_signal_reaches_the_process_that_was_found_and_no_later_one_of_its_id() {
        let (mut child, _, process) = sleeping_child();
        let later = Process {
            started: process.started + 1,
            ..process
        };
        later.signal(Signal::KILL);
        assert!(child.try_wait().unwrap().is_none());
        process.signal(Signal::KILL);
        child.wait().unwrap();
    }
}
