//! A strict reader of Prometheus' text format, version 0.0.4.

use std::collections::BTreeSet;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The family's name, with what a histogram adds.
    pub name: String,
    /// Names and values in the order of the page.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// The value of a label, empty where it is absent.
    pub fn label(&self, name: &str) -> &str {
        let found = self.labels.iter().find(|(label, _)| label == name);
        found.map_or("", |(_, value)| value)
    }
}

/// Reads a page, and panics where it is not as Prometheus wants it: each family once, with one line
/// of help and one of type ahead of its samples; no sample twice; names, labels and values as they
/// must be; counters that are not negative and end in `_total`; histograms that add up.
pub fn read(page: &str) -> Vec<Sample> {
    assert!(page.ends_with('\n'), "no newline at the end");
    let mut families = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut samples: Vec<Sample> = Vec::new();
    let (mut family, mut kind) = (String::new(), String::new());
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').expect("a name and a text");
            assert!(is_name(name) && !text.is_empty(), "{line}");
            assert!(families.insert(name.to_owned()), "{name} comes twice");
            let types = lines.next().expect("a type");
            let types = types
                .strip_prefix("# TYPE ")
                .expect("a type behind the help");
            let (typed, is) = types.split_once(' ').expect("a name and a type");
            assert_eq!(typed, name);
            assert!(matches!(is, "counter" | "gauge" | "histogram"), "{types}");
            assert_eq!(is == "counter", name.ends_with("_total"), "{types}");
            (family, kind) = (name.to_owned(), is.to_owned());
            continue;
        }
        let sample = read_sample(line);
        let known = match kind.as_str() {
            "histogram" => ["_bucket", "_sum", "_count"]
                .iter()
                .any(|end| sample.name == format!("{family}{end}")),
            _ => sample.name == family,
        };
        assert!(known, "{line} is not of {family}");
        assert!(kind == "gauge" || sample.value >= 0.0, "{line}");
        let key = format!("{}{:?}", sample.name, sample.labels);
        assert!(seen.insert(key), "{line} comes twice");
        samples.push(sample);
    }
    histograms_add_up(&samples);
    samples
}

fn histograms_add_up(samples: &[Sample]) {
    let mut last = 0.0;
    for (at, sample) in samples.iter().enumerate() {
        if !sample.name.ends_with("_bucket") {
            continue;
        }
        let is_first = at == 0 || samples[at - 1].name != sample.name;
        assert!(is_first || sample.value >= last, "{sample:?}");
        last = sample.value;
        if sample.label("le") == "+Inf" {
            let [sum, count] = &samples[at + 1..at + 3] else {
                panic!("no sum and count behind {sample:?}");
            };
            assert!(sum.name.ends_with("_sum") && count.name.ends_with("_count"));
            assert_eq!(count.value, sample.value, "{}", count.name);
        } else {
            sample.label("le").parse::<f64>().expect("a bound");
        }
    }
}

fn is_name(text: &str) -> bool {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && text.chars().all(is_fine)
}

fn read_sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap_or(line.len());
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, behind) = rest.split_once("=\"").expect("a label");
            assert!(is_name(label) && !label.starts_with("__"), "{line}");
            let (value, behind) = label_value(behind);
            let is_new = labels.iter().all(|(known, _)| known != label);
            assert!(is_new, "{line}");
            labels.push((label.to_owned(), value));
            match behind.strip_prefix(',') {
                Some(next) => rest = next,
                None => {
                    rest = behind.strip_prefix('}').expect("the end of the labels");
                    break;
                }
            }
        }
    }
    let value = rest.strip_prefix(' ').expect("a space before the value");
    Sample {
        name: name.to_owned(),
        labels,
        value: value.parse().unwrap_or_else(|_| panic!("{line}")),
    }
}

/// Reads up to the quotation mark that ends a value.
fn label_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &text[at + 1..]),
            '\\' => match letters.next().expect("an escape").1 {
                'n' => value.push('\n'),
                escaped @ ('"' | '\\') => value.push(escaped),
                other => panic!("no escape: {other}"),
            },
            letter => value.push(letter),
        }
    }
    panic!("a value without an end: {text}");
}
