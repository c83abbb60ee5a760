//! The documentation matches the program: settings, errors, log messages, metrics, dependencies.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::support::command::bounded_command;
use clap::CommandFactory;
use http::StatusCode;
use session_adapter::config::Cli;

const CONFIGURATION: &str = include_str!("../../docs/CONFIGURATION.md");
const DEPENDENCIES: &str = include_str!("../../docs/DEPENDENCIES.md");
const ERRORS: &str = include_str!("../../docs/ERRORS.md");
const OPERATIONS: &str = include_str!("../../docs/OPERATIONS.md");

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

/// The sources below `folder` with one of these file names, so that a file may move between modules.
fn sources_named(folder: &str, names: &[&str]) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let named = |path: &Path| names.iter().any(|name| path.ends_with(name));
    let texts: Vec<String> = sources()
        .into_iter()
        .filter(|(path, _)| path.starts_with(&folder) && named(path))
        .map(|(_, text)| text)
        .collect();
    assert!(!texts.is_empty(), "no {names:?} in {}", folder.display());
    texts.join("\n")
}

/// The cells of each row of the tables of `page` that starts with a cell in backticks or digits.
fn rows(page: &str) -> Vec<Vec<&str>> {
    page.lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|'))
        .filter(|row| row.starts_with(|c: char| c == '`' || c.is_ascii_digit()))
        .map(|row| row.split('|').map(str::trim).collect())
        .collect()
}

/// The text of a cell that is nothing but code.
fn code(cell: &str) -> Option<&str> {
    let code = cell.strip_prefix('`')?.strip_suffix('`')?;
    (!code.contains('`')).then_some(code)
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
        for function in ["log::warn(", "log::error("] {
            for call in text.split(function).skip(1) {
                let message = arguments(call).swap_remove(0);
                messages.insert(message, path.clone());
            }
        }
    }
    messages
}

#[test]
fn the_page_has_the_messages_of_the_log_and_no_others() {
    let messages = messages();
    assert!(messages.len() > 20, "{messages:?}");
    assert!(messages.contains_key("request") && messages.contains_key("draining"));
    let levels = ["DEBUG", "INFO", "WARN", "ERROR"];
    let listed: BTreeSet<&str> = rows(OPERATIONS)
        .into_iter()
        .filter(|cells| cells.get(1).is_some_and(|level| levels.contains(level)))
        .filter_map(|cells| code(cells[0]))
        .collect();
    let logged: BTreeSet<&str> = messages.keys().map(String::as_str).collect();
    let missing: Vec<_> = logged.difference(&listed).collect();
    assert!(missing.is_empty(), "not in docs/OPERATIONS.md: {missing:?}");
    let stale: Vec<_> = listed.difference(&logged).collect();
    assert!(stale.is_empty(), "only in docs/OPERATIONS.md: {stale:?}");
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

/// The statuses and codes of the code: a text that follows `StatusCode::NAME,`.
fn error_codes() -> BTreeSet<(u16, String)> {
    let statuses: BTreeMap<String, u16> = (100..600)
        .filter_map(|number| {
            let reason = StatusCode::from_u16(number).ok()?.canonical_reason()?;
            Some((reason.to_uppercase().replace([' ', '-'], "_"), number))
        })
        .collect();
    let text = sources_named("src/adapter", &["error.rs"]);
    let pairs = text.split("StatusCode::").skip(1).filter_map(|rest| {
        let (name, after) = rest.split_once(',')?;
        let (code, _) = after.trim_start().strip_prefix('"')?.split_once('"')?;
        Some((*statuses.get(name)?, code.to_owned()))
    });
    let mut found: BTreeSet<(u16, String)> = pairs.collect();
    // The session names the code of an error, and the layer above its status.
    let arms = arms(&text);
    for (variants, code) in &arms {
        let Some(code) = code
            .strip_prefix('"')
            .and_then(|rest| rest.split('"').next())
        else {
            continue;
        };
        // Limits and messages are written otherwise than codes.
        let is_code = code.starts_with(|c: char| c.is_ascii_uppercase())
            && code.chars().all(|c| c.is_ascii_alphanumeric());
        if !is_code {
            continue;
        }
        for (others, status) in &arms {
            let name = status.strip_prefix("StatusCode::").unwrap_or_default();
            let name: String = name
                .chars()
                .take_while(|c| *c == '_' || c.is_ascii_uppercase())
                .collect();
            if let Some(status) = statuses.get(&name)
                && !variants.is_disjoint(others)
            {
                found.insert((*status, code.to_owned()));
            }
        }
    }
    found
}

/// The arms of all `match` expressions: the variants that they name, and the text after the arrow.
fn arms(text: &str) -> Vec<(BTreeSet<&str>, &str)> {
    let arm = |(at, _): (usize, &str)| {
        let before = &text[..at];
        let start = [",\n", "{\n", "}\n"]
            .iter()
            .filter_map(|end| before.rfind(end))
            .max();
        let pattern = &before[start.unwrap_or(0)..];
        let is_end = |c: char| !c.is_ascii_alphanumeric();
        let variants = pattern.split("::").skip(1);
        let variants = variants
            .filter_map(|rest| rest.split(is_end).next())
            .collect();
        let value = text[at + 2..].trim_start();
        (
            variants,
            value.strip_prefix('{').unwrap_or(value).trim_start(),
        )
    };
    text.match_indices("=>").map(arm).collect()
}

#[test]
fn the_page_has_the_errors_with_their_statuses_and_no_others() {
    let codes = error_codes();
    assert!(codes.len() > 35, "{codes:?}");
    assert!(codes.contains(&(414, "RequestTargetTooLong".to_owned())));
    let mut listed = BTreeSet::new();
    for cells in rows(ERRORS) {
        let [status, name, cause, remedy] = cells[..] else {
            panic!("status, code, cause and what to do: {cells:?}");
        };
        assert!(!cause.is_empty() && !remedy.is_empty(), "{cells:?}");
        let row = (status.parse().unwrap(), code(name).unwrap().to_owned());
        assert!(listed.insert(row), "{name} has two rows");
    }
    let missing: Vec<_> = codes.difference(&listed).collect();
    assert!(missing.is_empty(), "not in docs/ERRORS.md: {missing:?}");
    let stale: Vec<_> = listed.difference(&codes).collect();
    assert!(stale.is_empty(), "only in docs/ERRORS.md: {stale:?}");
}

/// Flag, variable and default.
type Setting = (String, String, String);

/// The settings of `serve`, as its help has them.
fn settings() -> BTreeSet<Setting> {
    let noted = |help: &str, note: &str| {
        let (_, rest) = help.split_once(&format!("[{note}: "))?;
        Some(rest.split_once(']')?.0.to_owned())
    };
    Cli::command()
        .get_arguments()
        .filter(|argument| !["help", "version"].contains(&argument.get_id().as_str()))
        .map(|argument| {
            let flag = format!("--{}", argument.get_long().unwrap());
            let variable = argument
                .get_env()
                .unwrap_or_else(|| panic!("{flag}: no variable"));
            let variable = variable.to_str().unwrap().to_owned();
            let help = argument.get_help().unwrap().to_string();
            let shown = argument.get_default_values();
            let default = match argument.get_action().takes_values() {
                false => "off".to_owned(),
                true if shown.is_empty() || argument.is_hide_default_value_set() => {
                    noted(&help, "default").unwrap_or_else(|| panic!("{flag}: no default"))
                }
                true => {
                    assert_eq!(noted(&help, "default"), None, "{flag}: two defaults");
                    shown[0].to_str().unwrap().to_owned()
                }
            };
            (flag, variable, default)
        })
        .collect()
}

#[test]
fn the_page_has_the_settings_with_their_defaults_and_no_others() {
    let settings = settings();
    assert!(settings.len() > 25, "{settings:?}");
    let mut listed = BTreeSet::new();
    for cells in rows(CONFIGURATION) {
        let Some(flag) = code(cells[0]).filter(|text| text.starts_with("--")) else {
            continue;
        };
        let [_, variable, default, meaning] = cells[..] else {
            panic!("flag, variable, default and meaning: {cells:?}");
        };
        assert!(!meaning.is_empty(), "{flag}");
        let row = (
            flag.to_owned(),
            code(variable).unwrap().to_owned(),
            default.replace('`', ""),
        );
        assert!(listed.insert(row), "{flag} has two rows");
    }
    let missing: Vec<_> = settings.difference(&listed).collect();
    assert!(
        missing.is_empty(),
        "not in docs/CONFIGURATION.md: {missing:#?}"
    );
    let stale: Vec<_> = listed.difference(&settings).collect();
    assert!(
        stale.is_empty(),
        "only in docs/CONFIGURATION.md: {stale:#?}"
    );
}

#[test]
fn the_page_has_every_variable_that_is_read() {
    let is_variable =
        |text: &&str| text.len() > 3 && text.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let text = sources_named("src/config", &["mod.rs"]);
    let quoted_after = |start: &'static str| {
        let rests = text.split(start).skip(1);
        rests.filter_map(|rest| rest.split('"').next())
    };
    let read: BTreeSet<&str> = quoted_after("env = \"")
        .chain(quoted_after(": &str = \""))
        .filter(is_variable)
        .collect();
    assert!(read.len() > 25 && read.contains("PORT"), "{read:?}");
    for variable in read {
        let known = CONFIGURATION.contains(&format!("`{variable}`"));
        assert!(known, "{variable} is not in docs/CONFIGURATION.md");
    }
}

#[test]
fn every_metric_and_every_limit_is_on_the_page() {
    let metrics = sources_named("src/adapter", &["metrics.rs", "metrics_page.rs"]);
    let families = ["page.family(", "page.single("];
    let mut names: BTreeSet<String> = families
        .iter()
        .flat_map(|call| metrics.split(call).skip(1))
        .filter_map(|call| arguments(call).into_iter().next())
        .filter(|text| text.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .collect();
    // Those whose names stand in a list.
    names.extend(["executions", "executions_limit"].map(str::to_owned));
    names.extend(["", "_queue", "_engine"].map(|part| format!("execution{part}_seconds")));
    assert!(names.len() > 12, "{names:?}");
    for name in names {
        let known = format!("`session_adapter_{name}`");
        assert!(OPERATIONS.contains(&known), "{known}");
    }
    let errors = sources_named("src/adapter", &["error.rs"]);
    let (_, limits) = errors.split_once("fn limit(").unwrap();
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
    let manifest: toml::Table = include_str!("../../Cargo.toml").parse().unwrap();
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
    let locked: toml::Table = include_str!("../../Cargo.lock").parse().unwrap();
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
