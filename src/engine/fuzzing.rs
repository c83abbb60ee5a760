//! Entry points for `fuzz/` and the replay of its corpus: the engine's parsers of untrusted bytes. Each
//! panics if an invariant is violated.

use super::request::{Bounds, JobRequest, plain_path};
use super::runtimes::{accepts, load, version_in};

const HIGHEST: Bounds = Bounds {
    wall_ms: 1000.0,
    cpu_ms: 1000.0,
    memory: 1e6,
};

/// The body of `POST /api/v2/execute`.
pub fn request(bytes: &[u8]) {
    let Ok(request) = JobRequest::read(std::str::from_utf8(bytes).ok()) else {
        return;
    };
    let Ok(submission) = request.submission(HIGHEST, HIGHEST) else {
        return;
    };
    assert!(submission.stdin.ends_with(b"\n") || matches!(request.flag("raw_stdin"), Ok(true)));
    for bounds in [submission.compile, submission.run] {
        for (bound, highest) in [
            (bounds.wall_ms, HIGHEST.wall_ms),
            (bounds.cpu_ms, HIGHEST.cpu_ms),
            (bounds.memory, HIGHEST.memory),
        ] {
            assert!(bound >= 1.0 && bound <= highest, "{bound}");
        }
    }
    for file in &submission.files {
        let path = plain_path(&file.name).unwrap_or_default();
        assert!(!path.is_empty() && !path.starts_with('/') && !path.contains('\0'));
        assert!(path.split('/').all(|part| !matches!(part, "" | "." | "..")));
    }
}

/// A table of runtimes, and a program's version output.
pub fn runtimes(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let version = version_in(&text);
    let Ok(entries) = load(Some(&text)) else {
        return;
    };
    for entry in &entries {
        assert!(!entry.programs.is_empty() && !entry.run.is_empty());
        if let Some(version) = &version {
            accepts(entry, version);
        }
    }
}
