//! `Content-Disposition` of a part, as clients really write it.
//!
//! Names come quoted, unquoted, percent-encoded, and as `filename*=utf-8''…` of RFC 5987, which
//! wins over `filename`.

use percent_encoding::percent_decode;

/// What a part says about itself.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Disposition {
    /// The name of the field.
    pub name: Option<String>,
    /// The name of the file, percent-decoded.
    pub filename: Option<String>,
}

impl Disposition {
    /// Reads the header's value. What cannot be read counts as absent.
    pub fn parse(value: &[u8]) -> Self {
        let mut found = Self::default();
        let mut extended = None;
        for (key, value) in parameters(&text(value)) {
            match key.as_str() {
                "name" => found.name = Some(value),
                "filename" => found.filename = Some(percent_decoded(value)),
                "filename*" => extended = extended_value(&value),
                _ => {}
            }
        }
        found.filename = extended.or(found.filename);
        found
    }
}

/// UTF-8, else Latin-1, in which every byte means something.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    }
}

/// The parameters behind the type, with their names in lower case.
fn parameters(value: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = after(value, ';');
    while !rest.is_empty() {
        let end = rest.find(['=', ';']).unwrap_or(rest.len());
        let key = rest[..end].trim().to_ascii_lowercase();
        rest = &rest[end..];
        if let Some(value) = rest.strip_prefix('=') {
            let value = value.trim_start();
            let (text, more) = match value.strip_prefix('"') {
                Some(quoted) => unquote(quoted),
                None => {
                    let end = value.find(';').unwrap_or(value.len());
                    (value[..end].trim_end().to_owned(), &value[end..])
                }
            };
            found.push((key, text));
            rest = more;
        }
        rest = after(rest, ';');
    }
    found
}

fn after(text: &str, separator: char) -> &str {
    text.split_once(separator).map_or("", |(_, rest)| rest)
}

/// The text up to the closing quote, and what follows it. A backslash is itself, but ahead of a
/// quote or another backslash: some clients send paths with backslashes as they are.
fn unquote(quoted: &str) -> (String, &str) {
    let mut text = String::new();
    let mut characters = quoted.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (text, &quoted[at + 1..]),
            '\\' => match characters.next_if(|(_, next)| matches!(next, '"' | '\\')) {
                Some((_, escaped)) => text.push(escaped),
                None => text.push('\\'),
            },
            _ => text.push(character),
        }
    }
    (text, "")
}

/// A name that is not valid once decoded was not encoded.
fn percent_decoded(value: String) -> String {
    match percent_decode(value.as_bytes()).decode_utf8() {
        Ok(decoded) => decoded.into_owned(),
        Err(_) => value,
    }
}

/// `charset'language'percent-encoded`, in UTF-8 or Latin-1.
fn extended_value(value: &str) -> Option<String> {
    let (charset, rest) = value.split_once('\'')?;
    let (_language, encoded) = rest.split_once('\'')?;
    let bytes: Vec<u8> = percent_decode(encoded.as_bytes()).collect();
    match charset.to_ascii_lowercase().as_str() {
        "utf-8" | "utf8" => String::from_utf8(bytes).ok(),
        "iso-8859-1" => Some(bytes.into_iter().map(char::from).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filename(value: &str) -> Option<String> {
        let found = Disposition::parse(value.as_bytes());
        assert_eq!(found.name.as_deref(), Some("file"), "{value}");
        found.filename
    }

    #[test]
    fn every_client_is_understood() {
        for (value, expected) in [
            // requests, urllib3 2, curl
            (r#"form-data; name="file"; filename="ü 🦀.txt""#, "ü 🦀.txt"),
            (
                r#"form-data; name="file"; filename="a%22b.txt""#,
                "a\"b.txt",
            ),
            // urllib3 1
            (
                "form-data; name=\"file\"; filename*=utf-8''%C3%BC%20x.txt",
                "ü x.txt",
            ),
            // aiohttp
            (
                r#"form-data; name="file"; filename="%C3%BC.txt"; filename*=utf-8''%C3%BC.txt"#,
                "ü.txt",
            ),
            // .NET
            (
                r#"form-data; name=file; filename="=?utf-8?B?w7wudHh0?="; filename*=utf-8''%C3%BC.txt"#,
                "ü.txt",
            ),
            ("form-data; name=file; filename=x; filename*=utf-8''x", "x"),
            ("form-data;name=file;filename=x y.txt ", "x y.txt"),
            // Semantic Kernel, LlamaIndex
            (
                r#"form-data; name="file"; filename="/mnt/data/x.csv""#,
                "/mnt/data/x.csv",
            ),
            (
                r#"form-data; name="file"; filename="a;b=c.txt""#,
                "a;b=c.txt",
            ),
            (
                r#"form-data; name="file"; filename="a\"b\\c\d""#,
                "a\"b\\c\\d",
            ),
            (r#"Form-Data; NAME="file"; FileName="x""#, "x"),
            (r#"form-data; name="file"; filename="100%.txt""#, "100%.txt"),
            (r#"form-data; name="file"; filename="%ff""#, "%ff"),
            (r#"form-data; filename="x"; name="file""#, "x"),
            ("form-data; name=file; filename*=iso-8859-1''%FC", "ü"),
            (r#"form-data; name="file"; filename="open"#, "open"),
            (r#"form-data; name="file"; filename="""#, ""),
        ] {
            assert_eq!(filename(value).as_deref(), Some(expected), "{value}");
        }
        let latin = Disposition::parse(b"form-data; name=file; filename=\"\xfc\"");
        assert_eq!(latin.filename.as_deref(), Some("ü"));
    }

    #[test]
    fn what_cannot_be_read_is_absent() {
        assert_eq!(filename("form-data; name=file; filename*=utf-8''%FF"), None);
        assert_eq!(filename("form-data; name=file; filename*=x"), None);
        assert_eq!(filename("form-data; ; =; name=file;;"), None);
        assert_eq!(Disposition::parse(b""), Disposition::default());
        assert_eq!(Disposition::parse(b"form-data"), Disposition::default());
    }
}
