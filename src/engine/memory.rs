//! Reads how much memory is available to jobs, from `/proc` and the control group's files.

use std::path::Path;

/// Memory in bytes that this process and its jobs can still use: what the machine has available, or
/// what this control group has left if that is less. `None` if neither can be read.
pub(super) fn available() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| field(&text, "MemAvailable:").map(|kib| kib.saturating_mul(1024)));
    let group = [
        (
            "/sys/fs/cgroup",
            "memory.max",
            "memory.current",
            "inactive_file",
        ),
        (
            "/sys/fs/cgroup/memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ]
    .into_iter()
    .find_map(|(folder, limit, used, cache)| {
        let read = |name: &str| std::fs::read_to_string(Path::new(folder).join(name)).ok();
        // Without a limit, cgroup v2 has the word `max` here, which does not parse.
        let limit: u64 = read(limit)?.trim().parse().ok()?;
        let used: u64 = read(used)?.trim().parse().ok()?;
        let cache = read("memory.stat").and_then(|text| field(&text, cache));
        // The kernel drops inactive file cache before it fails an allocation.
        Some(limit.saturating_sub(used.saturating_sub(cache.unwrap_or(0))))
    });
    match (machine, group) {
        (Some(machine), Some(group)) => Some(machine.min(group)),
        (one, other) => one.or(other),
    }
}

/// The number after a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some(name)).then(|| words.next()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "active_file 1\ninactive_file 4096\nMemAvailable:  20 kB\n";
        assert_eq!(field(text, "inactive_file"), Some(4096));
        assert_eq!(field(text, "MemAvailable:"), Some(20));
        assert_eq!(field(text, "file"), None);
    }

    #[test]
    fn this_machine_has_memory_left() {
        assert!(available().is_none_or(|bytes| bytes > 1 << 20));
    }
}
