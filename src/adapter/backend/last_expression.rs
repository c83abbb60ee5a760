//! Programs that have no value for certain, so that nothing needs to be put before them.

use memchr::memmem;

/// Words of programs that may be more than they look: figures are values, and what is imported or
/// evaluated may open one, or give `print` another meaning.
const MORE: [&str; 9] = [
    "import",
    "exec",
    "eval",
    "__",
    "plot",
    "plt",
    "def print",
    "class print",
    "\\\n",
];

/// Whether a Python program ends in a call of `print`, and in nothing else, as far as that can be
/// seen without reading Python: where it cannot, the answer is no.
pub fn ends_in_print(code: &str) -> bool {
    let is_plain = |c: char| c == '\n' || c == '\t' || !c.is_control();
    let last = code.trim_end_matches('\n').lines().next_back();
    code.chars().all(is_plain)
        && MORE
            .iter()
            .all(|word| memmem::find(code.as_bytes(), word.as_bytes()).is_none())
        && code
            .split("print")
            .skip(1)
            .all(|rest| rest.starts_with('('))
        && last
            .and_then(|line| line.strip_prefix("print("))
            .is_some_and(closes_at_its_end)
}

/// Whether what follows an opening bracket closes it with the last character of the line.
fn closes_at_its_end(line: &str) -> bool {
    let mut depth = 1;
    let mut quote = None;
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(_), '\\') => {
                characters.next();
            }
            (Some(open), _) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth -= 1,
            (None, '#' | ';') => return false,
            (None, _) => {}
        }
        if depth == 0 {
            return characters.as_str().trim().is_empty();
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_print_at_the_end_has_no_value() {
        for code in [
            "print(42)",
            "x = [1]\nfor y in x:\n    print(y)\nprint(f'{x}', \"a)\", '\\')')\n\n",
            "def f(n):\n\treturn n\nprint(f(3))  \n",
        ] {
            assert!(ends_in_print(code), "{code}");
        }
    }

    #[test]
    fn whatever_may_have_one_is_left_to_python() {
        for code in [
            "",
            "1",
            "x = 1",
            "print",
            "print(1), 2",
            "print(1) or 5",
            "print(1); 5",
            "print(1) # x",
            "print(1)[0]",
            "print(1",
            "print(')",
            "    print(1)",
            "print = len\nprint('x')",
            "def print(x): return 5\nprint(1)",
            "import helper\nprint(1)",
            "5, \\\nprint(1)",
            "plt.figure()\nprint(1)",
            "1\r\nprint(1)",
            "1\u{c}print(1)",
        ] {
            assert!(!ends_in_print(code), "{code}");
        }
    }
}
