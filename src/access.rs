//! Who may talk to a listener: the rules for `Host`, `Origin` and `Sec-Fetch-Site`.
//!
//! There is no authentication: whoever reaches a listener may run code. A browser reaches every
//! listener of its machine, for any page that it shows. Two rules keep such pages out. A page that
//! has its own name resolved to this machine (DNS rebinding) sends that name as `Host`, so a host
//! must be an IP address, `localhost`, or a name that the operator allows. A page of another site
//! names itself in `Origin`, or is marked by `Sec-Fetch-Site`, so an origin must be the host itself
//! or one that the operator allows.
//!
//! Both apply to TCP alone: no browser speaks to a Unix socket.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use http::header::{HOST, ORIGIN};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderName, HeaderValue, Version};

/// Whether a browser says that a request comes from a page of another site.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// How much of a header an error shows.
const SHOWN: usize = 128;

/// Why a request is refused before anything is done for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// The request is for a name that is not this machine's.
    #[error(
        "Requests for the host '{0}' are refused: allowed are IP addresses, localhost, and names \
         given by --allow-host or ALLOW_HOST."
    )]
    Host(String),
    /// The request comes from a web page of another origin.
    #[error(
        "Requests from the origin '{0}' are refused: allowed are pages of the same host and port, \
         and origins given by --allow-origin or ALLOW_ORIGIN."
    )]
    Origin(String),
    /// The request comes from a web page of another site, which does not name itself.
    #[error(
        "Requests from pages of other sites are refused, except for origins given by \
         --allow-origin or ALLOW_ORIGIN."
    )]
    CrossSite,
}

/// A name of a host, in lower case and without a port, or `*` for every host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHost(String);

impl FromStr for AllowedHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_name = Authority::from_str(text)
            .is_ok_and(|authority| authority.host() == text && !text.contains(['*', '@']));
        match text {
            "*" => Ok(Self(text.to_owned())),
            _ if is_name => Ok(Self(text.to_ascii_lowercase())),
            _ => Err("names of hosts without a port, such as sessions.example, or *".to_owned()),
        }
    }
}

impl fmt::Display for AllowedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An origin as browsers write it, or `*` for every origin that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigin {
    /// Every origin but `null`.
    Any,
    /// This one.
    One(Origin),
}

impl FromStr for AllowedOrigin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        Origin::parse(text).map(Self::One).ok_or_else(|| {
            "origins without a path or a slash at the end, such as \
             https://app.example or http://localhost:3000, or *"
                .to_owned()
        })
    }
}

impl fmt::Display for AllowedOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::One(Origin { scheme, place }) => {
                write!(f, "{scheme}://{}", place.host)?;
                match (*scheme, place.port) {
                    ("http", 80) | ("https", 443) => Ok(()),
                    (_, port) => write!(f, ":{port}"),
                }
            }
        }
    }
}

/// Scheme, host and port of a web page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: &'static str,
    place: Place,
}

/// A host in lower case, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    host: String,
    port: u16,
}

impl Place {
    /// `None` for what is no authority of a plain URL.
    fn parse(text: &str, default_port: u16) -> Option<Self> {
        let authority = Authority::from_str(text).ok()?;
        let after_host = authority.as_str().strip_prefix(authority.host())?;
        let port = match after_host {
            "" | ":" => default_port,
            _ => authority.port_u16()?,
        };
        Some(Self {
            host: authority.host().to_ascii_lowercase(),
            port,
        })
    }
}

impl Origin {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let (scheme, default_port) = match scheme.to_ascii_lowercase().as_str() {
            "http" => ("http", 80),
            "https" => ("https", 443),
            _ => return None,
        };
        let place = Place::parse(authority, default_port)?;
        Some(Self { scheme, place })
    }

    /// Whether it is a page of the host that a request is for.
    fn is_of(&self, host: &str) -> bool {
        let default_port = if self.scheme == "https" { 443 } else { 80 };
        Place::parse(host, default_port).is_some_and(|place| place == self.place)
    }
}

/// The rules of a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessPolicy {
    /// Names of this machine, besides IP addresses and `localhost`.
    pub hosts: Vec<AllowedHost>,
    /// Web pages of other hosts that may use the session.
    pub origins: Vec<AllowedOrigin>,
}

impl AccessPolicy {
    /// Whether every host is allowed: the operator knows what can reach the listener.
    pub fn allows_every_host(&self) -> bool {
        self.hosts.iter().any(|allowed| allowed.0 == "*")
    }

    /// Checks a request, whose `Host` is known to be well-formed where there is one. Only HTTP/1.0
    /// may lack it, which no browser speaks.
    ///
    /// Returns the origin where it is not the host itself, but allowed: its page may read the
    /// response.
    ///
    /// # Errors
    /// [`AccessError`]; nothing must be done for the request then.
    pub fn check(&self, head: &Parts) -> Result<Option<HeaderValue>, AccessError> {
        let hosts: Vec<String> = head.headers.get_all(HOST).iter().map(text_of).collect();
        // Of an absolute target the authority is the host, whatever `Host` says.
        let authority = head.uri.authority().map(Authority::as_str);
        let named = hosts.iter().map(String::as_str).chain(authority);
        if let Some(refused) = named.clone().find(|host| !self.allows_host(host)) {
            return Err(AccessError::Host(shown(refused)));
        }
        let host = named.last().unwrap_or_default();
        if host.is_empty() && head.version >= Version::HTTP_11 {
            return Err(AccessError::Host(String::new()));
        }
        let mut origins = head.headers.get_all(ORIGIN).iter();
        let (origin, other) = (origins.next(), origins.next());
        let Some(value) = origin else {
            return match is_cross_site(head) {
                true => Err(AccessError::CrossSite),
                false => Ok(None),
            };
        };
        let text = text_of(value);
        let refused = || AccessError::Origin(shown(&text));
        let origin = Origin::parse(&text)
            .filter(|_| other.is_none())
            .ok_or_else(refused)?;
        if self.allows_origin(&origin) {
            return Ok(Some(value.clone()));
        }
        if !origin.is_of(host) || is_cross_site(head) {
            return Err(refused());
        }
        Ok(None)
    }

    fn allows_host(&self, host: &str) -> bool {
        if self.allows_every_host() {
            return true;
        }
        let Some(place) = Place::parse(host, 0) else {
            return false;
        };
        place.host == "localhost"
            || is_address(&place.host)
            || self.hosts.iter().any(|allowed| allowed.0 == place.host)
    }

    fn allows_origin(&self, origin: &Origin) -> bool {
        self.origins.iter().any(|allowed| match allowed {
            AllowedOrigin::Any => true,
            AllowedOrigin::One(allowed) => allowed == origin,
        })
    }
}

/// Whether any of the headers says so.
fn is_cross_site(head: &Parts) -> bool {
    let mut sites = head.headers.get_all(SEC_FETCH_SITE).iter().map(text_of);
    sites.any(|site| site.to_ascii_lowercase().contains("cross-site"))
}

fn is_address(host: &str) -> bool {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match bare {
        Some(bare) => bare.parse::<Ipv6Addr>().is_ok(),
        None => host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_ipv4()),
    }
}

fn text_of(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn shown(text: &str) -> String {
    text.chars()
        .take(SHOWN)
        .filter(|c| !c.is_control())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn policy(hosts: &[&str], origins: &[&str]) -> AccessPolicy {
        AccessPolicy {
            hosts: hosts.iter().map(|text| text.parse().unwrap()).collect(),
            origins: origins.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn head(target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::get(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_host_is_an_address_localhost_or_a_name_that_is_allowed() {
        let named = policy(&["Sessions.example"], &[]);
        for host in [
            "127.0.0.1",
            "127.0.0.1:2000",
            "10.1.2.3:80",
            "[::1]",
            "[::1]:2000",
            "localhost",
            "LOCALHOST:2000",
            "sessions.example",
            "SESSIONS.example:8080",
        ] {
            assert_eq!(
                named.check(&head("/", &[("host", host)])),
                Ok(None),
                "{host}"
            );
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "sub.sessions.example",
            "sessions.example.",
            "0x7f.1",
            "::1",
            "localhost.",
        ] {
            let refused = named.check(&head("/", &[("host", host)]));
            assert!(matches!(refused, Err(AccessError::Host(_))), "{host}");
        }
        let any = policy(&["*"], &[]);
        assert_eq!(any.check(&head("/", &[("host", "evil.example")])), Ok(None));
    }

    #[test]
    fn the_authority_of_an_absolute_target_counts() {
        let refused =
            policy(&[], &[]).check(&head("http://evil.example/x", &[("host", "localhost")]));
        assert!(matches!(refused, Err(AccessError::Host(_))));
        let passed = policy(&[], &[]).check(&head("http://localhost/x", &[("host", "localhost")]));
        assert_eq!(passed, Ok(None));
    }

    #[test]
    fn an_origin_is_the_host_itself() {
        let none = policy(&["sessions.example"], &[]);
        for (host, origin) in [
            ("localhost:2000", "http://localhost:2000"),
            ("localhost:2000", "HTTP://LOCALHOST:2000"),
            ("localhost:2000", "https://localhost:2000"),
            ("sessions.example", "https://sessions.example"),
            ("sessions.example:443", "https://sessions.example"),
            ("sessions.example:80", "http://sessions.example"),
            ("[::1]:2000", "http://[::1]:2000"),
        ] {
            let headers = [("host", host), ("origin", origin)];
            assert_eq!(none.check(&head("/", &headers)), Ok(None), "{origin}");
        }
        for (host, origin) in [
            ("localhost:2000", "http://localhost:3000"),
            ("localhost:2000", "http://localhost"),
            ("localhost:2000", "http://127.0.0.1:2000"),
            ("localhost:2000", "https://evil.example"),
            ("localhost:2000", "null"),
            ("localhost:2000", ""),
            ("localhost:2000", "file://"),
            ("localhost:2000", "chrome-extension://abc"),
            ("localhost:2000", "http://localhost:2000/"),
            ("localhost:2000", "http://evil@localhost:2000"),
        ] {
            let headers = [("host", host), ("origin", origin)];
            let refused = none.check(&head("/", &headers));
            assert!(matches!(refused, Err(AccessError::Origin(_))), "{origin}");
        }
        let twice = [
            ("host", "localhost"),
            ("origin", "http://localhost"),
            ("origin", "http://localhost"),
        ];
        assert!(none.check(&head("/", &twice)).is_err());
    }

    #[test]
    fn an_origin_that_is_allowed_is_told_and_null_never_is() {
        let one = policy(&[], &["https://app.example", "http://localhost:3000"]);
        let check = |policy: &AccessPolicy, origin: &str| {
            let headers = [
                ("host", "localhost:2000"),
                ("origin", origin),
                ("sec-fetch-site", "cross-site"),
            ];
            policy.check(&head("/", &headers))
        };
        for origin in [
            "https://app.example",
            "https://app.example:443",
            "http://localhost:3000",
        ] {
            let allowed = check(&one, origin).unwrap().unwrap();
            assert_eq!(allowed, origin);
        }
        assert!(check(&one, "http://app.example").is_err());
        assert!(check(&one, "http://localhost:2000").is_err());
        let any = policy(&[], &["*"]);
        assert!(check(&any, "https://whoever.example").unwrap().is_some());
        assert!(check(&any, "null").is_err());
    }

    #[test]
    fn a_page_of_another_site_that_does_not_name_itself_is_refused() {
        let check = |site: &str| {
            let headers = [("host", "localhost"), ("sec-fetch-site", site)];
            policy(&[], &[]).check(&head("/", &headers))
        };
        assert_eq!(check("cross-site"), Err(AccessError::CrossSite));
        assert_eq!(
            check("same-origin, Cross-Site"),
            Err(AccessError::CrossSite)
        );
        for site in ["same-origin", "same-site", "none"] {
            assert_eq!(check(site), Ok(None), "{site}");
        }
    }

    #[test]
    fn what_is_no_host_and_no_origin_is_not_taken() {
        for wrong in ["", "a b", "http://x", "x:80", "*.example", "user@host"] {
            assert!(wrong.parse::<AllowedHost>().is_err(), "{wrong}");
        }
        for wrong in [
            "",
            "null",
            "app.example",
            "ftp://x",
            "https://x/path",
            "https://",
        ] {
            assert!(wrong.parse::<AllowedOrigin>().is_err(), "{wrong}");
        }
    }
}
