//! The current resource usage of a process tree, read from `/proc`.
//!
//! A job's processes are the descendants of its keeper. The keeper is the subreaper of all of them
//! (`PR_SET_CHILD_SUBREAPER`), so following parents also finds those that called `setsid` or forked
//! twice. A process cannot change its parent, unlike the owner of its files in `/proc`.
//!
//! Processes may start and end while `/proc` is read; the result is a sample.

use std::collections::HashMap;
use std::io::Read;
use std::time::Duration;

/// The total usage of all descendants of a process.
#[derive(Debug, Clone, Default)]
pub(super) struct Usage {
    /// CPU time, including that of children they have reaped.
    pub(super) cpu: Duration,
    /// Anonymous and shared resident memory in bytes: what the kernel cannot drop.
    pub(super) memory: u64,
    pub(super) pids: Vec<i32>,
}

struct ProcessStat {
    parent: i32,
    group: i32,
    has_ended: bool,
    /// CPU time, including that of children it has reaped.
    ticks: u64,
    reaped_ticks: u64,
}

/// Adds up the usage of the descendants of `root`.
pub(super) fn usage_below(root: i32, ticks_per_second: u64) -> Usage {
    let mut buffer = Vec::with_capacity(1024);
    let mut children: HashMap<i32, Vec<(i32, u64)>> = HashMap::new();
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Usage::default();
    };
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if let Some(stat) = read(&format!("/proc/{pid}/stat"), &mut buffer).and_then(parse_stat) {
            children
                .entry(stat.parent)
                .or_default()
                .push((pid, stat.ticks));
        }
    }
    let mut usage = Usage::default();
    let mut ticks = 0_u64;
    let mut todo = vec![root];
    while let Some(parent) = todo.pop() {
        for (pid, own_ticks) in children.remove(&parent).unwrap_or_default() {
            ticks = ticks.saturating_add(own_ticks);
            if let Some(status) = read(&format!("/proc/{pid}/status"), &mut buffer) {
                usage.memory = usage.memory.saturating_add(memory(status));
            }
            usage.pids.push(pid);
            todo.push(pid);
        }
    }
    usage.cpu = Duration::from_millis(ticks.saturating_mul(1000) / ticks_per_second.max(1));
    usage
}

/// The children of a process that have not ended.
pub(super) fn children_of(parent: i32) -> Vec<i32> {
    let mut buffer = Vec::with_capacity(1024);
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|process| process.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            read(&format!("/proc/{pid}/stat"), &mut buffer)
                .and_then(parse_stat)
                .is_some_and(|stat| stat.parent == parent && !stat.has_ended)
        })
        .collect()
}

/// Anonymous and shared resident memory of one process in bytes.
pub(super) fn current_memory(pid: i32) -> u64 {
    read(&format!("/proc/{pid}/status"), &mut Vec::new()).map_or(0, memory)
}

/// CPU time of the children that a process has reaped.
pub(super) fn reaped_cpu(pid: i32, ticks_per_second: u64) -> Duration {
    let mut buffer = Vec::new();
    let stat = read(&format!("/proc/{pid}/stat"), &mut buffer).and_then(parse_stat);
    let ticks = stat.map_or(0, |stat| stat.reaped_ticks);
    Duration::from_millis(ticks.saturating_mul(1000) / ticks_per_second.max(1))
}

/// The process group of a process.
pub(super) fn group_of(pid: i32) -> Option<i32> {
    let mut buffer = Vec::new();
    Some(
        read(&format!("/proc/{pid}/stat"), &mut buffer)
            .and_then(parse_stat)?
            .group,
    )
}

fn read<'a>(path: &str, buffer: &'a mut Vec<u8>) -> Option<&'a str> {
    buffer.clear();
    std::fs::File::open(path)
        .and_then(|mut file| file.read_to_end(buffer))
        .ok()?;
    // A program's name for itself may not be UTF-8 and may contain anything, but it ends before the
    // last `)`.
    let from = buffer
        .iter()
        .rposition(|byte| *byte == b')')
        .map_or(0, |at| at + 1);
    if path.ends_with("/stat") {
        return std::str::from_utf8(buffer.get(from..)?).ok();
    }
    let line = buffer.iter().position(|byte| *byte == b'\n')?;
    std::str::from_utf8(buffer.get(line..)?).ok()
}

/// Parses what follows the program's name in `/proc/PID/stat`, see proc(5): state, ppid, pgrp, … and fields
/// 14 to 17 (utime, stime, cutime, cstime).
fn parse_stat(rest: &str) -> Option<ProcessStat> {
    let mut fields = rest.split_ascii_whitespace();
    let has_ended = matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let mut times = fields.skip(8).map(|ticks| ticks.parse().unwrap_or(0));
    let mut pair = || Some(u64::saturating_add(times.next()?, times.next()?));
    let (own_ticks, reaped_ticks) = (pair()?, pair()?);
    Some(ProcessStat {
        parent,
        group,
        has_ended,
        ticks: own_ticks.saturating_add(reaped_ticks),
        reaped_ticks,
    })
}

/// `RssAnon` and `RssShmem` of `/proc/PID/status`, in bytes.
fn memory(status: &str) -> u64 {
    status
        .lines()
        .filter_map(|line| {
            line.strip_prefix("RssAnon:")
                .or_else(|| line.strip_prefix("RssShmem:"))
        })
        .filter_map(|value| value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
        .fold(0, |sum, kib| sum.saturating_add(kib.saturating_mul(1024)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_parsed_after_a_name_with_spaces_and_parentheses() {
        let line = "7 (a) b (c)) S 3 7 7 0 -1 4194304 94 10 0 0 1 2 30 40 20 0 1 0 1 2 3";
        let rest = &line[line.rfind(')').unwrap() + 1..];
        let stat = parse_stat(rest).unwrap();
        assert_eq!((stat.parent, stat.ticks), (3, 73));
    }

    #[test]
    fn anonymous_and_shared_pages_count_and_file_pages_do_not() {
        let status = "Name:\tx\nRssAnon:\t     100 kB\nRssFile:\t    5000 kB\nRssShmem:\t 28 kB\n";
        assert_eq!(memory(status), 128 * 1024);
    }

    #[test]
    fn a_child_is_found_below_its_parent() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        let usage = usage_below(me, 100);
        let pid = i32::try_from(child.id()).unwrap();
        assert!(usage.pids.contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
