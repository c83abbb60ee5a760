//! What a cell in a kernel has shown, in Azure's words: the value of its last expression.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::piston::{CellValue, Json};

/// Images that are a value; the second word is Azure's `format`.
const IMAGES: [(&str, &str); 2] = [("image/png", "png"), ("image/jpeg", "jpeg")];

/// The parts of a Jupyter MIME bundle that matter here.
#[derive(Deserialize)]
struct Bundle<'a> {
    #[serde(borrow)]
    data: HashMap<String, &'a RawValue>,
}

impl<'a> Bundle<'a> {
    fn of(json: &'a Json) -> Option<Self> {
        serde_json::from_str(json.0.get()).ok()
    }

    fn text(&self, kind: &str) -> Option<String> {
        serde_json::from_str(self.data.get(kind)?.get()).ok()
    }

    fn image(&self) -> Option<Box<RawValue>> {
        let (kind, format) = IMAGES
            .into_iter()
            .find(|(kind, _)| self.data.contains_key(*kind))?;
        let image = serde_json::json!({
            "type": "image", "format": format, "base64_data": self.text(kind)?,
        });
        serde_json::value::to_raw_value(&image).ok()
    }
}

/// The value of a cell as JSON: that of its last expression, else its last figure. `None` if there is
/// neither.
///
/// It is IPython's text, read as JSON where it is JSON; the text of a string is the string. With `jupyter`
/// it stays the text that Jupyter shows, and `None` is `null`.
pub fn result(value: &CellValue, jupyter: bool) -> Option<Box<RawValue>> {
    let Some(result) = &value.result else {
        if value.none && jupyter {
            return RawValue::from_string("null".to_owned()).ok();
        }
        let shown = value.outputs.iter().rev();
        return shown.filter_map(Bundle::of).find_map(|one| one.image());
    };
    let bundle = Bundle::of(value.outputs.get(result.output)?)?;
    if let Some(image) = bundle.image() {
        return Some(image);
    }
    let text = bundle.text("text/plain")?;
    if jupyter {
        return json_of(&text)
            .filter(|json| json.get().starts_with(['[', '{']))
            .or_else(|| string(&text));
    }
    if let Some(text) = &result.string {
        return string(text);
    }
    match text.as_str() {
        "True" => json_of("true"),
        "False" => json_of("false"),
        _ => json_of(&text).or_else(|| string(&text)),
    }
}

fn json_of(text: &str) -> Option<Box<RawValue>> {
    let json: Box<RawValue> = serde_json::from_str(text).ok()?;
    (depth(json.get()) <= MAX_DEPTH).then_some(json)
}

fn string(text: &str) -> Option<Box<RawValue>> {
    serde_json::value::to_raw_value(text).ok()
}

/// Many readers of JSON give up beyond it.
const MAX_DEPTH: usize = 64;

/// How deep arrays and objects are nested in valid JSON.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut is_escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(json: &str, jupyter: bool) -> String {
        let value = serde_json::from_str(json).unwrap();
        result(&value, jupyter).map_or_else(String::new, |value| value.get().to_owned())
    }

    fn told_of(text: &str, jupyter: bool) -> String {
        let text = serde_json::to_string(text).unwrap();
        let outputs = format!(r#"[{{"data":{{"text/plain":{text}}},"metadata":{{}}}}]"#);
        told(
            &format!(r#"{{"result":{{"output":0}},"outputs":{outputs}}}"#),
            jupyter,
        )
    }

    #[test]
    fn a_value_is_its_text_as_json_where_it_is_json() {
        for (text, value, as_jupyter) in [
            ("42", "42", "\"42\""),
            ("1e+16", "1e+16", "\"1e+16\""),
            ("True", "true", "\"True\""),
            ("nan", "\"nan\"", "\"nan\""),
            ("[1, 2]", "[1, 2]", "[1, 2]"),
            ("{'a': 1}", "\"{'a': 1}\"", "\"{'a': 1}\""),
            ("['a',\n 'b']", "\"['a',\\n 'b']\"", "\"['a',\\n 'b']\""),
        ] {
            assert_eq!(told_of(text, false), value);
            assert_eq!(told_of(text, true), as_jupyter);
        }
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert_eq!(told_of(&deep, false), format!("\"{deep}\""));
    }

    #[test]
    fn a_string_comes_without_its_quotes() {
        let json = r#"{"result":{"output":0,"string":"42"},
            "outputs":[{"data":{"text/plain":"'42'"},"metadata":{}}]}"#;
        assert_eq!(told(json, false), "\"42\"");
        assert_eq!(told(json, true), "\"'42'\"");
    }

    #[test]
    fn without_a_value_the_last_figure_is_it() {
        let figures = r#"{"outputs":[{"data":{"image/png":"AA=="},"metadata":{}},
            {"data":{"image/png":"BB==","text/plain":"<Figure>"},"metadata":{}},
            {"data":{"text/html":"<b>"},"metadata":{}}]}"#;
        let image: serde_json::Value = serde_json::from_str(&told(figures, false)).unwrap();
        assert_eq!(
            image,
            serde_json::json!({"type":"image","format":"png","base64_data":"BB=="})
        );
        let both = r#"{"result":{"output":1},"outputs":[{"data":{"image/png":"AA=="},"metadata":{}},
            {"data":{"text/plain":"7"},"metadata":{}}]}"#;
        assert_eq!(told(both, false), "7");
    }

    #[test]
    fn no_value_is_none_and_null_for_jupyter() {
        assert_eq!(told("{}", false), "");
        assert_eq!(told(r#"{"none":true}"#, false), "");
        assert_eq!(told(r#"{"none":true}"#, true), "null");
        assert_eq!(told("{}", true), "");
    }

    #[test]
    fn what_no_kernel_sends_is_no_value() {
        for json in [
            r#"{"result":{"output":3}}"#,
            r#"{"result":{"output":0},"outputs":[[]]}"#,
            r#"{"result":{"output":0},"outputs":[{"data":{"text/plain":5}}]}"#,
        ] {
            assert_eq!(told(json, false), "", "{json}");
        }
    }
}
