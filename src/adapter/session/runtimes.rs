//! The languages that the engine has, as far as they are known.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::adapter::backend::translate::ResolvedLanguage;
use crate::piston::{Client, ClientError, Runtime};

/// When a name is missing from the list, the list is fetched again, but not more often than this.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5);
const REFRESH_TIMEOUT: Duration = Duration::from_secs(2);
/// What people call a language that has no such alias in a real Piston.
const USUAL_NAMES: [(&str, &str); 2] = [("node", "javascript"), ("nodejs", "javascript")];

/// The list of runtimes, and when it was last asked for.
#[derive(Debug, Default)]
pub struct Runtimes(Mutex<Listed>);

#[derive(Debug, Default)]
struct Listed {
    runtimes: Arc<Vec<Runtime>>,
    asked_at: Option<Instant>,
}

impl Runtimes {
    /// The runtimes that are known by now.
    pub fn known(&self) -> Arc<Vec<Runtime>> {
        Arc::clone(&self.lock().runtimes)
    }

    /// Whether a language of this name is known.
    pub fn has(&self, language: &str) -> bool {
        self.known().iter().any(|r| r.language == language)
    }

    /// Asks the engine for the list.
    ///
    /// # Errors
    /// [`ClientError`] when there is no list.
    pub async fn refresh(&self, client: &Client) -> Result<Arc<Vec<Runtime>>, ClientError> {
        self.lock().asked_at = Some(Instant::now());
        let deadline = Instant::now() + REFRESH_TIMEOUT;
        let runtimes = Arc::new(client.runtimes(deadline).await?);
        self.lock().runtimes = Arc::clone(&runtimes);
        Ok(runtimes)
    }

    /// Finds a language by its name or an alias, in any case. A name that is not listed is passed on
    /// in lower case: whether it exists is the engine's decision.
    pub async fn resolve(&self, client: &Client, name: &str) -> ResolvedLanguage {
        let listed = find_language(&self.known(), name);
        if let Some(found) = listed {
            return found;
        }
        let asked_at = self.lock().asked_at;
        if asked_at.is_none_or(|at| at.elapsed() >= REFRESH_INTERVAL)
            && let Ok(runtimes) = self.refresh(client).await
            && let Some(found) = find_language(&runtimes, name)
        {
            return found;
        }
        let name = name.to_lowercase();
        ResolvedLanguage {
            language: name.clone(),
            name,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Listed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find_language(runtimes: &[Runtime], name: &str) -> Option<ResolvedLanguage> {
    let find = |same: fn(&str, &str) -> bool| {
        runtimes.iter().find_map(|runtime| {
            let names = std::iter::once(&runtime.language).chain(&runtime.aliases);
            let found = names.into_iter().find(|listed| same(listed, name))?;
            Some(ResolvedLanguage {
                name: found.clone(),
                language: runtime.language.clone(),
            })
        })
    };
    find(|listed, name| listed == name)
        .or_else(|| find(str::eq_ignore_ascii_case))
        .or_else(|| {
            let is_name = |(usual, _): &&(&str, &str)| usual.eq_ignore_ascii_case(name);
            let (_, language) = USUAL_NAMES.iter().find(is_name)?;
            find_language(runtimes, language)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_language_is_found_by_name_alias_and_in_any_case() {
        let runtimes: Vec<Runtime> = serde_json::from_str(
            r#"[{"language":"c++","version":"12.2.0","aliases":["cpp","g++"]},
                {"language":"python","version":"3.11.2","aliases":["py"]}]"#,
        )
        .unwrap();
        for (asked, name, language) in [
            ("python", "python", "python"),
            ("Python", "python", "python"),
            ("py", "py", "python"),
            ("CPP", "cpp", "c++"),
        ] {
            let found = find_language(&runtimes, asked).unwrap();
            assert_eq!(
                (found.name.as_str(), found.language.as_str()),
                (name, language)
            );
        }
        assert_eq!(find_language(&runtimes, "cobol"), None);
        assert_eq!(find_language(&runtimes, "node"), None);
        let piston: Vec<Runtime> = serde_json::from_str(
            r#"[{"language":"javascript","version":"20.11.1","aliases":["node-js","js"]}]"#,
        )
        .unwrap();
        assert_eq!(find_language(&piston, "NodeJS").unwrap().name, "javascript");
    }
}
