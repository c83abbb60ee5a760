//! The notebooks of `fixtures/notebooks`, each through every dialect with variables that last: what comes
//! back is what ipykernel gives. Only cells that need no package, as the Python that runs them may have
//! none; `.ci/notebooks` plays all of them.

use std::path::{Path, PathBuf};

use crate::support::{Program, raw};
use serde_json::{Value, json};

/// Path, the name of the code's field, and where a response has its parts.
const DIALECTS: [(&str, &str, &str); 4] = [
    (
        "/code/execute?api-version=2024-02-02-preview",
        "code",
        "/properties",
    ),
    ("/execute?api-version=2024-09-01-preview", "code", ""),
    (
        "/executions?api-version=2025-10-02-preview",
        "code",
        "/result",
    ),
    (
        "/python/execute?api-version=2024-02-02-preview",
        "pythonCode",
        "/properties",
    ),
];

/// A cell, and what stands behind its `# %%`.
struct Cell {
    head: String,
    code: String,
}

impl Cell {
    fn all_of(notebook: &Path) -> Vec<Self> {
        let mut cells: Vec<Self> = Vec::new();
        for line in std::fs::read_to_string(notebook)
            .unwrap()
            .split_inclusive('\n')
        {
            match line.strip_prefix("# %%") {
                Some(head) => cells.push(Self {
                    head: head.trim().to_owned(),
                    code: String::new(),
                }),
                None => cells.last_mut().unwrap().code += line,
            }
        }
        cells
    }

    fn stdin(&self) -> String {
        let quoted = self.head.strip_prefix("stdin=");
        quoted.map_or_else(String::new, |text| serde_json::from_str(text).unwrap())
    }
}

fn last_line(text: &str) -> &str {
    let mut lines = text.lines().rev().map(str::trim_end);
    lines.find(|line| !line.is_empty()).unwrap_or_default()
}

/// How a traceback's last line differs between versions of Python, and without IPython.
fn comparable(line: &str) -> String {
    match line.split_once(": ") {
        Some((error @ ("SyntaxError" | "IndentationError" | "RecursionError"), _)) => {
            error.to_owned()
        }
        Some((error, text)) if !error.contains(' ') => {
            let name = error.rsplit('.').next().unwrap_or_default();
            format!("{name}: {text}")
        }
        _ => line.trim_end_matches(':').to_owned(),
    }
}

/// Where the cells of one notebook differ from what was recorded by one dialect.
async fn differences(
    program: &Program,
    notebook: &Path,
    expected: &[Value],
    at: usize,
) -> Vec<String> {
    let (path, field, parts) = DIALECTS[at];
    let name = notebook.file_stem().unwrap().to_str().unwrap();
    let path = format!("{path}&identifier={name}-{at}");
    let mut found = Vec::new();
    for (number, (cell, expected)) in Cell::all_of(notebook).iter().zip(expected).enumerate() {
        if cell.head.contains("needs=") {
            continue;
        }
        let body = json!({"properties": {field: cell.code, "stdin": cell.stdin()}});
        let response = raw::post(program.addr, &path, &body.to_string()).await;
        assert_eq!(response.status, 200, "{}", response.text());
        let response = response.json();
        let parts = response.pointer(parts).unwrap();
        let stderr = comparable(last_line(parts["stderr"].as_str().unwrap()));
        let mut differ = |what: &str, is: &Value, should: &Value| {
            if is != should {
                let cell = &cell.code;
                found.push(format!(
                    "{name} {}, {path}: {what} is {is}, not {should}\n{cell}",
                    number + 1
                ));
            }
        };
        if cell.head == "stdin_ends" {
            let error = json!("EOFError: EOF when reading a line");
            differ("stderr", &json!(stderr), &error);
            continue;
        }
        let wanted = comparable(expected["stderr_end"].as_str().unwrap());
        differ("stdout", &parts["stdout"], &expected["stdout"]);
        differ("stderr", &json!(stderr), &json!(wanted));
        differ("value", &parts["executionResult"], &expected["value"]);
    }
    found
}

#[tokio::test]
async fn a_cell_gives_through_every_dialect_what_ipykernel_gives() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/notebooks");
    let expected = std::fs::read(folder.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let mut notebooks: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "py"))
        .collect();
    notebooks.sort();
    let cells: usize = notebooks.iter().map(|path| Cell::all_of(path).len()).sum();
    assert!(cells >= 150, "{cells}");
    let program = Program::start(&["--max-kernels", "64"]).await;
    let mut found = Vec::new();
    for notebook in &notebooks {
        let name = notebook.file_stem().unwrap().to_str().unwrap();
        let expected = expected[name].as_array().unwrap();
        for at in 0..DIALECTS.len() {
            found.extend(differences(&program, notebook, expected, at).await);
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
