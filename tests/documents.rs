//! The pages for operators say what the program says.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use http::StatusCode;
use support::command::bounded_command;

const OPERATIONS: &str = include_str!("../docs/OPERATIONS.md");
const DEPENDENCIES: &str = include_str!("../docs/DEPENDENCIES.md");
const ERRORS: &str = include_str!("../src/adapter/azure/error.rs");
const METRICS: &str = include_str!("../src/adapter/telemetry/metrics.rs");

/// The program's sources, without tests in files of their own.
fn sources() -> Vec<(PathBuf, String)> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs")
            {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

/// What stands between the parenthesis that has just been opened and its end, and the texts in it.
fn arguments(source: &str) -> Vec<String> {
    let mut depth = 1;
    let mut texts = Vec::new();
    let mut letters = source.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            '"' => {
                let mut text = String::new();
                while let Some(letter) = letters.next() {
                    match letter {
                        '\\' => text.extend(letters.next()),
                        '"' => break,
                        letter => text.push(letter),
                    }
                }
                texts.push(text);
            }
            _ => {}
        }
        if depth == 0 {
            return texts;
        }
    }
    panic!("a call without an end");
}

/// The message of each line that the program logs.
fn messages() -> BTreeMap<String, PathBuf> {
    let mut messages = BTreeMap::new();
    for (path, text) in sources() {
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        for macro_name in ["trace", "debug", "info", "warn", "error"] {
            for call in text.split(&format!("tracing::{macro_name}!(")).skip(1) {
                let message = arguments(call).pop().expect("a message");
                messages.insert(message, path.clone());
            }
        }
        for call in text.split("log::error(").skip(1) {
            let message = arguments(call).swap_remove(0);
            messages.insert(message, path.clone());
        }
    }
    messages
}

#[test]
fn every_line_of_the_log_is_on_the_page() {
    let messages = messages();
    assert!(messages.len() > 20, "{messages:?}");
    assert!(messages.contains_key("request") && messages.contains_key("draining"));
    let missing: Vec<_> = messages
        .iter()
        .filter(|(message, _)| !OPERATIONS.contains(&format!("| `{message}` |")))
        .collect();
    assert!(missing.is_empty(), "not in docs/OPERATIONS.md: {missing:?}");
}

#[test]
fn nothing_writes_to_stderr_but_the_log_and_the_reason_of_an_end() {
    let writes = |text: &str| text.contains("eprintln!") || text.contains("dbg!(");
    let found: Vec<_> = sources()
        .into_iter()
        .filter(|(path, text)| writes(text) && !path.ends_with("main.rs"))
        .map(|(path, _)| path)
        .collect();
    assert!(found.is_empty(), "{found:?}");
}

/// The statuses and codes of the table: what follows `StatusCode::NAME,` and is a text.
fn error_codes() -> BTreeSet<(u16, String)> {
    let statuses: BTreeMap<String, u16> = (100..600)
        .filter_map(|number| {
            let reason = StatusCode::from_u16(number).ok()?.canonical_reason()?;
            Some((reason.to_uppercase().replace([' ', '-'], "_"), number))
        })
        .collect();
    ERRORS
        .split("StatusCode::")
        .skip(1)
        .filter_map(|rest| {
            let (name, behind) = rest.split_once(',')?;
            let (code, _) = behind.trim_start().strip_prefix('"')?.split_once('"')?;
            Some((*statuses.get(name)?, code.to_owned()))
        })
        .collect()
}

#[test]
fn every_error_is_on_the_page_with_its_status() {
    let codes = error_codes();
    assert!(codes.len() > 35, "{codes:?}");
    assert!(codes.contains(&(414, "RequestTargetTooLong".to_owned())));
    let missing: Vec<_> = codes
        .iter()
        .filter(|(status, code)| !OPERATIONS.contains(&format!("| {status} | `{code}` |")))
        .collect();
    assert!(missing.is_empty(), "not in docs/OPERATIONS.md: {missing:?}");
}

#[test]
fn every_metric_and_every_limit_is_on_the_page() {
    let families = ["page.family(", "page.single("];
    let mut names: BTreeSet<String> = families
        .iter()
        .flat_map(|call| METRICS.split(call).skip(1))
        .filter_map(|call| arguments(call).into_iter().next())
        .filter(|text| text.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .collect();
    // Those whose names stand in a list.
    names.extend(["now", "most"].map(|end| format!("executions_{end}")));
    names.extend(["", "_queue", "_engine"].map(|part| format!("execution{part}_seconds")));
    assert!(names.len() > 12, "{names:?}");
    for name in names {
        let known = format!("`session_adapter_{name}`");
        assert!(OPERATIONS.contains(&known), "{known}");
    }
    let (_, limits) = ERRORS.split_once("fn limit(").unwrap();
    let (limits, _) = limits.split_once("fn target(").unwrap();
    for limit in limits.split('"').skip(1).step_by(2) {
        assert!(OPERATIONS.contains(&format!("`{limit}`")), "{limit}");
    }
}

/// The crates of a table of `DEPENDENCIES.md`.
fn listed(title: &str) -> BTreeSet<String> {
    let (_, part) = DEPENDENCIES.split_once(&format!("## {title}\n")).unwrap();
    let part = part.split("\n## ").next().unwrap();
    let rows = part.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let (name, why) = row.split_once("` | ").expect("a name and a reason");
        assert!(why.len() > 4, "{row}");
        name.to_owned()
    })
    .collect()
}

#[test]
fn every_dependency_is_listed_with_its_reason() {
    let manifest: toml::Table = include_str!("../Cargo.toml").parse().unwrap();
    for (table, title) in [
        ("dependencies", "The program"),
        ("dev-dependencies", "Tests alone"),
    ] {
        let named = manifest[table].as_table().unwrap().keys();
        let named: BTreeSet<String> = named.cloned().collect();
        assert_eq!(listed(title), named, "[{table}]");
    }
}

#[test]
fn the_whole_tree_is_counted() {
    let locked: toml::Table = include_str!("../Cargo.lock").parse().unwrap();
    let locked = locked["package"].as_array().unwrap().len() - 1;
    let told = format!("`Cargo.lock`: {locked} packages");
    assert!(DEPENDENCIES.contains(&told), "{told}");

    let mut cargo = bounded_command(env!("CARGO"));
    // Where cargo has its packages, and the compiler that it asks about the target.
    for name in [
        "PATH",
        "HOME",
        "CARGO_HOME",
        "RUSTUP_HOME",
        "RUSTUP_TOOLCHAIN",
    ] {
        cargo.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    let tree = cargo
        .args(["tree", "--locked", "--offline", "--edges", "normal"])
        .args(["--target", "x86_64-unknown-linux-gnu", "--prefix", "none"])
        .args(["--format", "{p}", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .unwrap();
    assert!(tree.status.success(), "{tree:?}");
    let text = String::from_utf8(tree.stdout).unwrap();
    let name_and_version = |line: &str| {
        let words: Vec<&str> = line.split(' ').take(2).collect();
        words.join(" ")
    };
    let packages: BTreeSet<String> = text.lines().map(name_and_version).collect();
    let told = format!("Linux: {} packages", packages.len() - 1);
    assert!(DEPENDENCIES.contains(&told), "{told}");
}
