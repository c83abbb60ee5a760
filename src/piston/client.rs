//! The client of a Piston API on loopback.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, StatusCode, header};
use reqwest::Url;
use tokio::time::{Instant, timeout_at};

use super::wire::{EngineAbout, ExecuteRequest, ExecuteResponse, Message, Runtime};

/// Piston closes an idle connection after 5.00 s; ours are given up well before, because a
/// request on a connection that closes under it may or may not have run.
const IDLE: Duration = Duration::from_secs(3);
const CONNECT: Duration = Duration::from_secs(2);
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Real Piston rejects a larger request with a 400 and a stack trace.
const PISTON_BODY_LIMIT: usize = 102_400;

/// Talks to one Piston API.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    urls: Urls,
    limits: ClientLimits,
    learned: Mutex<BTreeMap<Limit, u64>>,
}

/// The addresses that are asked, parsed once.
#[derive(Debug)]
struct Urls {
    execute: Url,
    runtimes: Url,
    kernels: Url,
    about: Url,
}

/// What bounds a [`Client`]'s exchanges.
#[derive(Debug, Clone, Copy)]
pub struct ClientLimits {
    /// Largest answer in bytes.
    pub max_response_bytes: usize,
}

/// The body of an execution that is passed on as it came.
#[derive(Debug)]
pub struct RawRequest {
    /// The content type that the body is declared as.
    pub content_type: Option<HeaderValue>,
    /// The bytes.
    pub body: Bytes,
}

/// A response that is passed on as it came.
#[derive(Debug)]
pub struct RawResponse {
    /// The status as Piston sent it.
    pub status: StatusCode,
    /// The content type as Piston sent it, if any.
    pub content_type: Option<HeaderValue>,
    /// Piston's bytes.
    pub body: Bytes,
}

/// Why there is no response to use.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens; nothing ran.
    #[error("cannot connect to the engine: {0}")]
    Unreachable(#[source] reqwest::Error),
    /// The connection broke after the request was sent; it may have run.
    #[error("the engine closed the connection before its response was complete: {0}")]
    ConnectionLost(#[source] reqwest::Error),
    /// No answer within the deadline.
    #[error("the engine did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The response is larger than [`ClientLimits::max_response_bytes`].
    #[error("the engine's response is larger than {0} bytes")]
    ResponseTooLarge(usize),
    /// The response is not what Piston's API says.
    #[error("the engine's response is not Piston's: {0}")]
    ResponseInvalid(String),
    /// The engine has as many jobs as it takes.
    #[error("the engine is busy")]
    Busy,
    /// The engine cannot serve at the moment (503).
    #[error("the engine is not available")]
    Unavailable,
    /// The kernel for a cell did not start (424); nothing ran.
    #[error("the kernel did not start")]
    KernelNotStarted,
    /// The engine has no room on its disk for the files of a job (507); nothing ran.
    #[error("the engine has no room on its disk")]
    NoSpace,
    /// The engine tried and failed (5xx; real Piston: 500 with an empty body).
    #[error("the engine failed with status {0}")]
    Failed(StatusCode),
    /// The engine answered that its sandbox failed (status word `XX`).
    #[error("the engine's sandbox failed")]
    SandboxFailed,
    /// The engine refuses the request; nothing ran.
    #[error("the engine refused the request: {0}")]
    Refused(Refusal),
}

/// What the engine does not like about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It has no such language, or not in that version.
    RuntimeUnknown,
    /// The request is larger than it takes; the size that was sent, in bytes.
    TooLarge(usize),
    /// Anything else, in the engine's words, which are not to be passed on as they are.
    Other(String),
}

impl fmt::Display for Refusal {
    /// For the log: only words that are known to hold nothing of the program.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RuntimeUnknown => f.write_str("no such runtime"),
            Self::TooLarge(size) => write!(f, "{size} bytes are too many"),
            Self::Other(message) if is_pistons(message) => f.write_str(message),
            Self::Other(_) => f.write_str("in words that are not Piston's"),
        }
    }
}

/// Whether a message is one of those that Piston 3.1.1 has for requests.
fn is_pistons(message: &str) -> bool {
    let endings = [
        " is required as a string",
        " is required as an array",
        " must be a number",
        " must be non-negative",
        " must include at least one utf8 encoded file",
    ];
    let limit = message.split_once(" cannot exceed the configured limit of ");
    let is_number = |text: &str| text.parse::<f64>().is_ok();
    message.len() < 100
        && (endings.iter().any(|ending| message.ends_with(ending))
            || limit.is_some_and(|(_, max)| is_number(max)))
}

/// Where JSON is wrong, without the piece that is.
fn json_error(error: &serde_json::Error) -> ClientError {
    ClientError::ResponseInvalid(format!(
        "{:?} error in JSON at line {} column {}",
        error.classify(),
        error.line(),
        error.column()
    ))
}

/// A limit of an [`ExecuteRequest`] for which the engine may have a configured maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Limit {
    RunTimeout,
    RunMemory,
}

impl Limit {
    const ALL: [Self; 2] = [Self::RunTimeout, Self::RunMemory];

    fn name(self) -> &'static str {
        match self {
            Self::RunTimeout => "run_timeout",
            Self::RunMemory => "run_memory_limit",
        }
    }

    fn of(self, request: &mut ExecuteRequest) -> &mut Option<u64> {
        match self {
            Self::RunTimeout => &mut request.run_timeout,
            Self::RunMemory => &mut request.run_memory_limit,
        }
    }

    /// Reads `run_timeout cannot exceed the configured limit of 3000`.
    fn in_message(message: &str) -> Option<(Self, u64)> {
        Self::ALL.into_iter().find_map(|limit| {
            let max = message
                .strip_prefix(limit.name())?
                .strip_prefix(" cannot exceed the configured limit of ")?;
            Some((limit, max.trim().parse().ok().filter(|max| *max > 0)?))
        })
    }
}

impl Client {
    /// A client of the API at `base` (`http://HOST:PORT`).
    ///
    /// # Errors
    /// Where the HTTP client cannot be set up.
    pub fn new(base: &str, limits: ClientLimits) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .http1_only()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .build()?;
        // Reqwest says in its own words what is wrong with an address.
        let url = |path: &str| {
            http.get(format!("{base}{path}"))
                .build()
                .map(|r| r.url().clone())
        };
        Ok(Self {
            urls: Urls {
                execute: url("/api/v2/execute")?,
                runtimes: url("/api/v2/runtimes")?,
                kernels: url("/api/v2/kernels")?,
                about: url("/")?,
            },
            http,
            limits,
            learned: Mutex::default(),
        })
    }

    /// Runs `request`.
    ///
    /// Its limits are lowered to those that the engine is known to allow. When the engine names
    /// one that it does not allow, nothing has run, and it is asked again with what it allows.
    ///
    /// # Errors
    /// [`ClientError`]; a request that may have run is never sent twice.
    pub async fn execute(
        &self,
        request: &mut ExecuteRequest,
        deadline: Instant,
    ) -> Result<ExecuteResponse, ClientError> {
        let mut asked_again = [false; Limit::ALL.len()];
        loop {
            self.clamp_to_engine_limits(request);
            let body = serde_json::to_vec(request).map_err(|e| json_error(&e))?;
            let size = body.len();
            let raw = RawRequest {
                content_type: Some(JSON),
                body: body.into(),
            };
            let response = self.post_execute(raw, deadline).await?;
            let refusal = match read_response(&response, size) {
                Err(ClientError::Refused(Refusal::Other(message))) => message,
                done => return done,
            };
            match Limit::in_message(&refusal) {
                Some((limit, max)) if !asked_again[limit as usize] => {
                    asked_again[limit as usize] = true;
                    self.learn(limit, max);
                }
                _ => return Err(ClientError::Refused(Refusal::Other(refusal))),
            }
        }
    }

    /// Sends the body of an execution as it is and hands the response back as it is.
    ///
    /// # Errors
    /// [`ClientError`] where there is no response.
    pub async fn post_execute(
        &self,
        raw: RawRequest,
        deadline: Instant,
    ) -> Result<RawResponse, ClientError> {
        let mut request = self.http.post(self.urls.execute.clone()).body(raw.body);
        if let Some(content_type) = raw.content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        self.exchange(request, deadline).await
    }

    /// `GET /api/v2/runtimes`, as it came.
    ///
    /// # Errors
    /// [`ClientError`] where there is no response.
    pub async fn get_runtimes(&self, deadline: Instant) -> Result<RawResponse, ClientError> {
        let request = self.http.get(self.urls.runtimes.clone());
        self.exchange(request, deadline).await
    }

    /// What the engine says of itself; real Piston says nothing of this.
    ///
    /// # Errors
    /// [`ClientError`] where there is no response.
    pub async fn about(&self, deadline: Instant) -> Result<EngineAbout, ClientError> {
        let request = self.http.get(self.urls.about.clone());
        let response = self.exchange(request, deadline).await?;
        Ok(serde_json::from_slice(&response.body).unwrap_or_default())
    }

    /// Ends all kernels of the embedded engine: `DELETE /api/v2/kernels`, an extension of Piston's API.
    ///
    /// # Errors
    /// [`ClientError`] where the engine does not say that they have ended.
    pub async fn delete_kernels(&self, deadline: Instant) -> Result<(), ClientError> {
        let request = self.http.delete(self.urls.kernels.clone());
        let response = self.exchange(request, deadline).await?;
        match response.status {
            StatusCode::OK => Ok(()),
            status => Err(ClientError::Failed(status)),
        }
    }

    /// What can run here.
    ///
    /// # Errors
    /// [`ClientError`] where there is no list.
    pub async fn runtimes(&self, deadline: Instant) -> Result<Vec<Runtime>, ClientError> {
        let response = self.get_runtimes(deadline).await?;
        if response.status != StatusCode::OK {
            return Err(ClientError::Failed(response.status));
        }
        serde_json::from_slice(&response.body).map_err(|e| json_error(&e))
    }

    async fn exchange(
        &self,
        request: reqwest::RequestBuilder,
        deadline: Instant,
    ) -> Result<RawResponse, ClientError> {
        let started = Instant::now();
        timeout_at(deadline, self.exchange_unbounded(request))
            .await
            .unwrap_or_else(|_| Err(ClientError::Timeout(started.elapsed())))
    }

    async fn exchange_unbounded(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<RawResponse, ClientError> {
        let mut response = request.send().await.map_err(|e| {
            if e.is_connect() {
                ClientError::Unreachable(e)
            } else {
                ClientError::ConnectionLost(e)
            }
        })?;
        let too_large = || ClientError::ResponseTooLarge(self.limits.max_response_bytes);
        let announced = response.content_length().unwrap_or(0);
        if announced > self.limits.max_response_bytes as u64 {
            return Err(too_large());
        }
        let mut body = BytesMut::with_capacity(announced as usize);
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(ClientError::ConnectionLost)?
        {
            if body.len() + chunk.len() > self.limits.max_response_bytes {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(RawResponse {
            status: response.status(),
            content_type: response.headers().get(header::CONTENT_TYPE).cloned(),
            body: body.freeze(),
        })
    }

    fn learn(&self, limit: Limit, max: u64) {
        tracing::info!(
            limit = limit.name(),
            max,
            "the engine allows less than asked for"
        );
        self.learned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(limit, max);
    }

    fn clamp_to_engine_limits(&self, request: &mut ExecuteRequest) {
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        for (limit, max) in learned.iter() {
            let asked = limit.of(request);
            *asked = asked.map(|asked| asked.min(*max));
        }
    }
}

/// Whether a 400 holds a stack trace, and how it begins.
fn stack_of(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Stack {
        stack: String,
    }
    serde_json::from_slice::<Stack>(body).ok().map(|s| s.stack)
}

impl RawResponse {
    /// Whether this is one of Piston's responses with a stack trace and paths of its server in it.
    pub fn has_stack(&self) -> bool {
        !self.status.is_success() && stack_of(&self.body).is_some()
    }
}

/// Sorts a response to an execution by whose fault it is; `size` is what was sent, in bytes.
fn read_response(response: &RawResponse, size: usize) -> Result<ExecuteResponse, ClientError> {
    match response.status {
        StatusCode::OK => serde_json::from_slice(&response.body).map_err(|e| json_error(&e)),
        StatusCode::BAD_REQUEST => Err(match stack_of(&response.body) {
            Some(stack) if size > PISTON_BODY_LIMIT || stack.starts_with("PayloadTooLarge") => {
                ClientError::Refused(Refusal::TooLarge(size))
            }
            Some(_) => ClientError::ResponseInvalid("status 400 with a stack trace".to_owned()),
            None => match serde_json::from_slice::<Message>(&response.body) {
                Ok(Message { message }) => {
                    let message = message.unwrap_or_default();
                    ClientError::Refused(if message.ends_with(" runtime is unknown") {
                        Refusal::RuntimeUnknown
                    } else {
                        Refusal::Other(message)
                    })
                }
                Err(_) => ClientError::ResponseInvalid("status 400 without a message".to_owned()),
            },
        }),
        StatusCode::PAYLOAD_TOO_LARGE => Err(ClientError::Refused(Refusal::TooLarge(size))),
        StatusCode::TOO_MANY_REQUESTS => Err(ClientError::Busy),
        StatusCode::SERVICE_UNAVAILABLE => Err(ClientError::Unavailable),
        StatusCode::FAILED_DEPENDENCY => Err(ClientError::KernelNotStarted),
        StatusCode::INSUFFICIENT_STORAGE => Err(ClientError::NoSpace),
        status if status.is_server_error() => Err(ClientError::Failed(status)),
        status => Err(ClientError::ResponseInvalid(format!("status {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &'static str) -> RawResponse {
        RawResponse {
            status: StatusCode::from_u16(status).unwrap(),
            content_type: None,
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn pistons_words_for_a_limit_are_understood() {
        let read = Limit::in_message;
        assert_eq!(
            read("run_timeout cannot exceed the configured limit of 3000"),
            Some((Limit::RunTimeout, 3000))
        );
        assert_eq!(
            read("run_memory_limit cannot exceed the configured limit of 64000000"),
            Some((Limit::RunMemory, 64_000_000))
        );
        assert_eq!(
            read("compile_timeout cannot exceed the configured limit of 9"),
            None
        );
        assert_eq!(
            read("run_timeout cannot exceed the configured limit of -1"),
            None
        );
        assert_eq!(read("run_timeout must be non-negative"), None);
    }

    #[test]
    fn the_log_gets_pistons_words_and_nothing_of_the_program() {
        let shown = |message: &str| Refusal::Other(message.to_owned()).to_string();
        for known in [
            "files[0].content is required as a string",
            "If specified, run_timeout must be a number",
            "run_timeout cannot exceed the configured limit of 3000",
        ] {
            assert_eq!(shown(known), known);
        }
        assert_eq!(shown("print('secret')"), "in words that are not Piston's");
        let invalid = r#"{"run":{"code":"secret"},"language":"x","version":"1"}"#;
        let error = read_response(&answer(200, invalid), 1)
            .unwrap_err()
            .to_string();
        assert!(
            !error.contains("secret") && error.contains("column"),
            "{error}"
        );
    }

    #[test]
    fn refusals_failures_and_nonsense_are_told_apart() {
        use ClientError::{Busy, Failed, Refused, ResponseInvalid, Unavailable};
        let read = |status, body, size| read_response(&answer(status, body), size).unwrap_err();
        assert!(matches!(
            read(400, r#"{"message":"cobol-* runtime is unknown"}"#, 1),
            Refused(Refusal::RuntimeUnknown)
        ));
        assert!(matches!(read(400, "{}", 1), Refused(Refusal::Other(_))));
        assert!(matches!(
            read(400, r#"{"stack":"PayloadTooLargeError: …"}"#, 1),
            Refused(Refusal::TooLarge(1))
        ));
        assert!(matches!(
            read(400, r#"{"stack":"Error: other"}"#, 102_401),
            Refused(Refusal::TooLarge(102_401))
        ));
        assert!(matches!(
            read(400, r#"{"stack":"Error: other"}"#, 9),
            ResponseInvalid(_)
        ));
        assert!(matches!(read(400, "nonsense", 9), ResponseInvalid(_)));
        assert!(matches!(read(500, "", 9), Failed(_)));
        assert!(matches!(read(503, "", 9), Unavailable));
        assert!(matches!(read(429, "", 9), Busy));
        assert!(matches!(
            read(404, r#"{"message":"Not Found"}"#, 9),
            ResponseInvalid(_)
        ));
        assert!(matches!(read(302, "", 9), ResponseInvalid(_)));
        assert!(matches!(
            read(200, r#"{"language":"x"}"#, 9),
            ResponseInvalid(_)
        ));
    }
}
