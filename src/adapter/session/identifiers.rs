//! Who uses this session: the identifiers under which it was called, and when.
//!
//! A container is one session. A pool calls it by one identifier; on a laptop there may be
//! several, which share the session.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::adapter::model::identifier::Identifier;

/// How long a pool with the default cooldown period keeps a session that nobody uses.
const COOLDOWN: Duration = Duration::from_secs(300);
/// Identifiers that are remembered; the one that was used least recently makes room.
const MAX_SESSIONS: usize = 100;

/// One identifier, and when it was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// The identifier; `None` for requests that name none.
    pub identifier: Option<Identifier>,
    pub created_at: SystemTime,
    pub last_accessed_at: SystemTime,
}

impl SessionRecord {
    /// When a pool would end the session, if it is not used again.
    pub fn expire_at(&self) -> SystemTime {
        self.last_accessed_at + COOLDOWN
    }
}

/// The identifiers of this session.
#[derive(Debug, Default)]
pub struct IdentifierLog {
    /// The one that was used last is the last.
    records: Mutex<Vec<SessionRecord>>,
}

impl IdentifierLog {
    pub fn touch(&self, identifier: Option<&Identifier>) {
        let now = SystemTime::now();
        let mut records = self.records();
        let known = records
            .iter()
            .position(|record| record.identifier.as_ref() == identifier);
        let created_at = match known {
            Some(at) => records.remove(at).created_at,
            None => now,
        };
        if records.len() == MAX_SESSIONS {
            records.remove(0);
        }
        records.push(SessionRecord {
            identifier: identifier.cloned(),
            created_at,
            last_accessed_at: now,
        });
    }

    /// The session of this name. Where it was used without a name, it is whichever is asked for;
    /// where none is asked for, it is the one that was used last.
    pub fn find(&self, identifier: Option<&Identifier>) -> Option<SessionRecord> {
        let records = self.records();
        let found = match identifier {
            None => records.last(),
            Some(_) => records
                .iter()
                .find(|record| record.identifier.as_ref() == identifier)
                .or_else(|| records.iter().find(|record| record.identifier.is_none())),
        };
        found.cloned()
    }

    /// Those that have a name, the one that was used least recently first.
    pub fn named(&self) -> Vec<SessionRecord> {
        let records = self.records();
        let named = records.iter().filter(|record| record.identifier.is_some());
        named.cloned().collect()
    }

    pub fn clear(&self) {
        self.records().clear();
    }

    fn records(&self) -> MutexGuard<'_, Vec<SessionRecord>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Identifier {
        Identifier::parse(text).unwrap()
    }

    #[test]
    fn a_session_is_known_once_it_was_used() {
        let sessions = IdentifierLog::default();
        assert_eq!(sessions.find(None), None);
        sessions.touch(Some(&named("demo-1")));
        sessions.touch(Some(&named("demo-2")));
        sessions.touch(Some(&named("demo-1")));
        let found = sessions.find(Some(&named("demo-1"))).unwrap();
        assert!(found.created_at <= found.last_accessed_at);
        assert_eq!(sessions.find(Some(&named("demo-3"))), None);
        assert_eq!(sessions.find(None), Some(found));
        assert_eq!(sessions.named().len(), 2);
        sessions.clear();
        assert_eq!(sessions.find(Some(&named("demo-1"))), None);
    }

    #[test]
    fn a_session_without_a_name_answers_to_any() {
        let sessions = IdentifierLog::default();
        sessions.touch(None);
        let found = sessions.find(Some(&named("demo-1"))).unwrap();
        assert_eq!(found.identifier, None);
        assert!(sessions.named().is_empty());
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let sessions = IdentifierLog::default();
        for number in 0..=MAX_SESSIONS {
            sessions.touch(Some(&named(&format!("demo-{number}"))));
        }
        assert_eq!(sessions.named().len(), MAX_SESSIONS);
        assert_eq!(sessions.find(Some(&named("demo-0"))), None);
    }
}
