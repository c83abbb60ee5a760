//! The executions of this session: those under way, and the results of those that have ended, for
//! as long and as many as there is room for.
//!
//! An execution runs in a task of its own, so that it outlives its request where it has to: an
//! asynchronous one, and one to which the client gave an id and may come back.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::adapter::model::execution::Execution;
use crate::adapter::model::identifier::Identifier;
use crate::adapter::model::operation_id::OperationId;
use crate::adapter::model::outcome::Outcome;
use crate::adapter::model::timings::{Arrival, Timings, millis};
use crate::adapter::model::trace::TraceContext;
use crate::adapter::session::error::{SessionError, outcome_label};
use crate::error_chain::error_chain;

/// Ended executions that are remembered.
const MAX_RETAINED: usize = 1000;
/// Bytes of output and values of all that are remembered; the last one is, whatever its size.
const MAX_RETAINED_BYTES: usize = 16 << 20;
/// How long an ended execution is remembered.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// What two executions of the same operation id are compared by: whatever decides what is run and
/// what becomes of it, but neither the form of the response nor whether the client waits for it.
///
/// 64 bits are enough. The key is random and stays in this process, so that nobody can look for two
/// requests of the same digest; and a digest is only ever compared with the one that is kept for
/// its identifier and operation id, so that a wrong match has a chance of 1 in 2^64 a request. It
/// would show a client a result of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(u64);

/// One execution, from the moment at which it was accepted.
pub struct ExecutionHandle {
    pub id: OperationId,
    /// The session that it was asked for.
    pub identifier: Option<Identifier>,
    /// Whether its client does not wait for it.
    pub is_asynchronous: bool,
    /// Whether its status is an exit code.
    pub is_shell: bool,
    /// The trace that it is part of.
    pub trace: Option<TraceContext>,
    digest: Digest,
    state: watch::Sender<State>,
    timings: Mutex<Timings>,
    /// Gone once it has ended: a handle keeps what its task took.
    task: Mutex<Option<AbortHandle>>,
}

/// How far an execution is.
#[derive(Debug, Clone)]
pub enum State {
    /// It waits for its turn.
    NotStarted,
    /// The engine has it.
    Running,
    Ended(Arc<Result<Outcome, SessionError>>),
}

impl fmt::Debug for ExecutionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecutionHandle")
            .field("id", &self.id)
            .finish()
    }
}

impl ExecutionHandle {
    /// One that has not started.
    pub fn new(id: OperationId, execution: &Execution, digest: Digest, arrival: Arrival) -> Self {
        Self {
            id,
            identifier: execution.identifier.clone(),
            is_asynchronous: execution.is_asynchronous,
            is_shell: execution.has_exit_status,
            trace: arrival.trace,
            digest,
            state: watch::Sender::new(State::NotStarted),
            timings: Mutex::new(Timings::since(arrival.at)),
            task: Mutex::default(),
        }
    }

    /// How far it is.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Whether it runs, or has run.
    pub fn may_have_run(&self) -> bool {
        match &*self.state.borrow() {
            State::NotStarted | State::Running => true,
            State::Ended(result) => match &**result {
                Ok(_) => true,
                Err(SessionError::Canceled) => false,
                Err(error) => error.may_have_run(),
            },
        }
    }

    /// Waits for its end.
    pub async fn ended(&self) -> Arc<Result<Outcome, SessionError>> {
        let mut state = self.state.subscribe();
        loop {
            if let State::Ended(result) = &*state.borrow_and_update() {
                return Arc::clone(result);
            }
            // The sender lives as long as `self`, so that the wait cannot fail.
            let _ = state.changed().await;
        }
    }

    /// When it reached which step.
    pub fn timings(&self) -> MutexGuard<'_, Timings> {
        self.timings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine has it now.
    pub fn started(&self) {
        self.timings().entered();
        self.state.send_replace(State::Running);
    }

    /// The task in which it runs.
    pub fn runs_in(&self, task: AbortHandle) {
        let mut own = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*self.state.borrow(), State::Ended(_)) {
            *own = Some(task);
        }
    }

    /// Ends it, if it is not over.
    pub fn cancel(&self) {
        if let Some(task) = &*self.task.lock().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }

    fn end(&self, result: Result<Outcome, SessionError>) {
        self.state.send_replace(State::Ended(Arc::new(result)));
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A request that waits for an execution. Dropped early, because the client has gone, it cancels
/// an execution that nobody can ask for any more.
#[derive(Debug)]
pub struct WaitGuard(Arc<ExecutionHandle>);

impl WaitGuard {
    /// Waits for `handle`.
    pub fn on(handle: Arc<ExecutionHandle>) -> Self {
        Self(handle)
    }

    /// The end of the execution.
    pub async fn ended(&self) -> Arc<Result<Outcome, SessionError>> {
        self.0.ended().await
    }
}

impl Drop for WaitGuard {
    fn drop(&mut self) {
        if !self.0.id.is_given && !self.0.is_asynchronous {
            self.0.cancel();
        }
    }
}

/// The result of registering an operation id.
#[derive(Debug)]
pub enum Registered {
    /// The execution is to be run.
    New(Arc<ExecutionHandle>),
    /// The same execution runs already, or has run.
    Existing(Arc<ExecutionHandle>),
}

/// All executions that are known.
#[derive(Debug, Default)]
pub struct ExecutionRegistry {
    inner: Mutex<RegistryInner>,
    digest_key: RandomState,
}

/// Each identifier has operation ids of its own, and so have requests without one.
type Key = (Option<Identifier>, String);

fn key(identifier: Option<&Identifier>, id: &str) -> Key {
    (identifier.cloned(), id.to_owned())
}

#[derive(Debug, Default)]
struct RegistryInner {
    by_id: HashMap<Key, Arc<ExecutionHandle>>,
    /// Those that have ended, oldest first.
    ended: VecDeque<EndedExecution>,
    bytes: usize,
}

#[derive(Debug)]
struct EndedExecution {
    handle: Arc<ExecutionHandle>,
    at: Instant,
    bytes: usize,
}

impl ExecutionRegistry {
    /// The digest of an execution.
    pub fn digest(&self, execution: &Execution) -> Digest {
        // Every field is named, so that a new one has to be decided on.
        let Execution {
            identifier: _,
            language,
            version,
            code,
            stdin,
            args,
            timeout,
            is_asynchronous: _,
            output_streams_max_length,
            jupyter_format,
            is_shell,
            is_cell: _,
            has_exit_status: _,
        } = execution;
        // Languages are found in any case.
        let language = language.to_lowercase();
        Digest(self.digest_key.hash_one((
            (language, version, code, stdin, args, timeout),
            (output_streams_max_length, jupyter_format, is_shell),
        )))
    }

    /// Takes in an execution, unless the same one is known by its id. One that was not run, or was
    /// canceled, gives way.
    ///
    /// # Errors
    /// [`SessionError::OperationIdConflict`] where the id is that of a different execution.
    pub fn register(&self, handle: ExecutionHandle) -> Result<Registered, SessionError> {
        let mut inner = self.lock();
        inner.forget_old();
        let identifier = handle.identifier.as_ref();
        if let Some(existing) = inner.find_existing(identifier, &handle.id, handle.digest)? {
            return Ok(Registered::Existing(existing));
        }
        let handle = Arc::new(handle);
        let key = key(handle.identifier.as_ref(), handle.id.as_str());
        inner.by_id.insert(key, Arc::clone(&handle));
        Ok(Registered::New(handle))
    }

    /// The execution of this identifier and id.
    pub fn find(&self, identifier: Option<&Identifier>, id: &str) -> Option<Arc<ExecutionHandle>> {
        let mut inner = self.lock();
        inner.forget_old();
        inner.by_id.get(&key(identifier, id)).cloned()
    }

    /// The same execution, if it runs or has run under this identifier and id.
    ///
    /// # Errors
    /// [`SessionError::OperationIdConflict`] where the id is that of a different execution.
    pub fn find_existing(
        &self,
        identifier: Option<&Identifier>,
        id: &OperationId,
        digest: Digest,
    ) -> Result<Option<Arc<ExecutionHandle>>, SessionError> {
        let mut inner = self.lock();
        inner.forget_old();
        inner.find_existing(identifier, id, digest)
    }

    /// One has ended. It is remembered, unless nothing of it can be asked for: it was not run and
    /// its client knows that, or the client has gone without having had an id.
    pub fn end(&self, handle: &Arc<ExecutionHandle>, result: Result<Outcome, SessionError>) {
        let is_kept = match &result {
            Ok(_) => true,
            Err(_) if handle.is_asynchronous => true,
            Err(SessionError::Canceled) => handle.id.is_given,
            Err(error) => error.may_have_run(),
        };
        let bytes = result.as_ref().map_or(0, Outcome::size);
        {
            let mut inner = self.lock();
            if is_kept {
                inner.add(handle, bytes);
            } else {
                inner.remove(handle);
            }
        }
        // Whoever gave no id waits, or has a line of its own that says that it went away.
        let may_be_alone = handle.is_asynchronous || handle.id.is_given;
        if may_be_alone && handle.state.receiver_count() == 0 {
            log_detached_completion(handle, &result);
        }
        handle.end(result);
    }

    /// Cancels what is under way.
    pub fn cancel_all(&self) {
        for handle in self.lock().by_id.values() {
            handle.cancel();
        }
    }

    /// Forgets all that have ended with an outcome; who asks for a canceled one is told so.
    pub fn clear(&self) {
        let mut inner = self.lock();
        let ended = std::mem::take(&mut inner.ended);
        inner.bytes = 0;
        for one in ended {
            match one.handle.state() {
                State::Ended(result) if result.is_err() => inner.ended.push_back(one),
                _ => inner.remove(&one.handle),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, RegistryInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RegistryInner {
    fn find_existing(
        &self,
        identifier: Option<&Identifier>,
        id: &OperationId,
        digest: Digest,
    ) -> Result<Option<Arc<ExecutionHandle>>, SessionError> {
        // Nobody else knows an id that was just made.
        if !id.is_given {
            return Ok(None);
        }
        match self.by_id.get(&key(identifier, id.as_str())) {
            Some(known) if !known.may_have_run() => Ok(None),
            Some(known) if known.digest != digest => Err(SessionError::OperationIdConflict),
            known => Ok(known.cloned()),
        }
    }

    fn add(&mut self, handle: &Arc<ExecutionHandle>, bytes: usize) {
        self.bytes += bytes;
        self.ended.push_back(EndedExecution {
            handle: Arc::clone(handle),
            at: Instant::now(),
            bytes,
        });
        while self.ended.len() > MAX_RETAINED
            || (self.bytes > MAX_RETAINED_BYTES && self.ended.len() > 1)
        {
            self.forget_oldest();
        }
    }

    fn forget_old(&mut self) {
        while self
            .ended
            .front()
            .is_some_and(|one| one.at.elapsed() > MAX_AGE)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.ended.pop_front() {
            self.bytes -= oldest.bytes;
            self.remove(&oldest.handle);
        }
    }

    fn remove(&mut self, handle: &Arc<ExecutionHandle>) {
        let key = key(handle.identifier.as_ref(), handle.id.as_str());
        if self
            .by_id
            .get(&key)
            .is_some_and(|one| Arc::ptr_eq(one, handle))
        {
            self.by_id.remove(&key);
        }
    }
}

/// Writes the line of an execution that ends while no request waits for it.
fn log_detached_completion(handle: &ExecutionHandle, result: &Result<Outcome, SessionError>) {
    let timings = handle.timings().clone();
    tracing::info!(
        trace_id = handle.trace.map(|trace| display(trace.trace_id)),
        parent_id = handle.trace.map(|trace| display(trace.parent_id)),
        operation_id = handle.id.as_str(),
        identifier = handle.identifier.as_ref().map(Identifier::as_str),
        language = timings.named_language(),
        outcome = outcome_label(result),
        cause = match result {
            Err(SessionError::Engine(cause)) => Some(error_chain(cause)),
            _ => None,
        },
        queue_ms = timings.in_queue().map(millis),
        engine_ms = timings.in_engine().map(millis),
        total_ms = millis(timings.arrived().elapsed()),
        "execution"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::azure::Query;
    use crate::adapter::azure::dialect::Dialect;
    use crate::adapter::azure::parse;
    use crate::adapter::model::outcome::StageOutput;
    use crate::piston::Verdict;

    fn register(
        executions: &ExecutionRegistry,
        id: &str,
        body: &str,
    ) -> Result<Registered, SessionError> {
        let query = Query::default();
        let execution = parse(&Dialect::Executions, query, None, body.as_bytes())
            .unwrap()
            .execution;
        let id = OperationId::given(id.as_bytes()).unwrap();
        let arrival = Arrival {
            at: Instant::now(),
            trace: None,
        };
        let digest = executions.digest(&execution);
        executions.register(ExecutionHandle::new(id, &execution, digest, arrival))
    }

    const BODY: &str = r#"{"code":"1"}"#;

    fn begin(executions: &ExecutionRegistry, id: &str) -> Arc<ExecutionHandle> {
        match register(executions, id, BODY).unwrap() {
            Registered::New(handle) => handle,
            Registered::Existing(known) => panic!("{known:?} is known"),
        }
    }

    fn outcome(bytes: usize) -> Outcome {
        Outcome {
            exit_code: 0,
            run: StageOutput {
                stdout: "x".repeat(bytes),
                ..StageOutput::default()
            },
            compile: None,
            value: None,
            outputs: Vec::new(),
            kernel: None,
            time_ms: 1,
            timed_out_after: None,
            verdict: Verdict::Success,
            cpu_time_ms: None,
            memory_bytes: None,
        }
    }

    #[tokio::test]
    async fn a_second_one_of_the_same_id_is_the_first() {
        let executions = ExecutionRegistry::default();
        let first = begin(&executions, "one");
        let Ok(Registered::Existing(same)) = register(&executions, "one", BODY) else {
            panic!("it was run twice");
        };
        assert!(Arc::ptr_eq(&first, &same));
        executions.end(&first, Ok(outcome(1)));
        assert_eq!(same.ended().await.as_ref().as_ref().unwrap().exit_code, 0);
        let again = register(&executions, "one", BODY);
        assert!(matches!(again, Ok(Registered::Existing(_))));
    }

    #[tokio::test]
    async fn an_id_of_another_execution_is_refused_until_it_is_forgotten() {
        let executions = ExecutionRegistry::default();
        let first = begin(&executions, "one");
        let other = || register(&executions, "one", r#"{"code":"2"}"#);
        let refused = |result| matches!(result, Err(SessionError::OperationIdConflict));
        assert!(refused(other()));
        executions.end(&first, Ok(outcome(1)));
        assert!(refused(other()));
        executions.clear();
        assert!(matches!(other(), Ok(Registered::New(_))));
    }

    #[test]
    fn a_digest_is_of_what_is_run_and_not_of_how_it_is_told() {
        let executions = ExecutionRegistry::default();
        let digest = |dialect: &Dialect, body: &str| {
            executions.digest(
                &parse(dialect, Query::default(), None, body.as_bytes())
                    .unwrap()
                    .execution,
            )
        };
        let python = Dialect::Language("Python".to_owned());
        let first = digest(&Dialect::Executions, r#"{"code":"1"}"#);
        for (dialect, body) in [
            (&python, r#"{"properties":{"pythonCode":"1"}}"#),
            (
                &Dialect::Code,
                r#"{"code":"MQ==","codeInputType":"InlineBase64"}"#,
            ),
            (
                &Dialect::Execute,
                r#"{"code":"1","executionType":"Asynchronous","identifier":"demo"}"#,
            ),
        ] {
            assert_eq!(digest(dialect, body), first, "{body}");
        }
        // No text moves from one field, or from one argument, to the next unnoticed.
        for (one, other) in [
            (r#"{"code":"ab"}"#, r#"{"code":"a","stdin":"b"}"#),
            (
                r#"{"code":"","args":["ab"]}"#,
                r#"{"code":"","args":["a","b"]}"#,
            ),
            (r#"{"code":"","args":[""]}"#, r#"{"code":""}"#),
        ] {
            let digest = |body| digest(&Dialect::Executions, body);
            assert_ne!(digest(one), digest(other), "{one} {other}");
        }
        let elsewhere = ExecutionRegistry::default();
        let execution = parse(
            &Dialect::Executions,
            Query::default(),
            None,
            BODY.as_bytes(),
        )
        .unwrap()
        .execution;
        assert_ne!(elsewhere.digest(&execution), first, "the key is random");
    }

    #[tokio::test]
    async fn rejected_operation_id_can_be_retried() {
        let executions = ExecutionRegistry::default();
        let first = begin(&executions, "one");
        executions.end(&first, Err(SessionError::QueueTimeout));
        assert!(executions.find(None, "one").is_none());
        begin(&executions, "one");
    }

    #[tokio::test]
    async fn the_oldest_are_forgotten_where_there_are_too_many_or_too_much() {
        let executions = ExecutionRegistry::default();
        for number in 0..=MAX_RETAINED {
            let one = begin(&executions, &format!("small-{number}"));
            executions.end(&one, Ok(outcome(1)));
        }
        assert!(executions.find(None, "small-0").is_none());
        assert!(executions.find(None, "small-1").is_some());
        let large = begin(&executions, "large");
        executions.end(&large, Ok(outcome(MAX_RETAINED_BYTES + 1)));
        assert!(executions.find(None, "small-1000").is_none());
        assert!(executions.find(None, "large").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_old_are_forgotten_and_what_runs_is_not() {
        let executions = ExecutionRegistry::default();
        let ended = begin(&executions, "ended");
        let _running = begin(&executions, "running");
        executions.end(&ended, Ok(outcome(1)));
        tokio::time::advance(MAX_AGE + Duration::from_secs(1)).await;
        assert!(executions.find(None, "ended").is_none());
        assert!(executions.find(None, "running").is_some());
    }
}
