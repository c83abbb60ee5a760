//! Bodies that a client has declared no type for.

use http::{HeaderMap, header};

/// Whether a body that is declared as text may be JSON all the same.
///
/// `fetch` says `text/plain;charset=UTF-8` of a string that it was given no type for, and clients
/// for JavaScript leave it at that. Piston takes JSON alone. A web page could send the same to any
/// address without asking first, but its browser adds `Origin`: that is left as it is.
pub fn is_fetch_default_content_type(headers: &HeaderMap) -> bool {
    let given = headers.get(header::CONTENT_TYPE);
    given.is_some_and(|value| value == "text/plain;charset=UTF-8")
        && !headers.contains_key(header::ORIGIN)
}
