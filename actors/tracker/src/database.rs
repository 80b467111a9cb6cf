//! Where runs are kept: the address of the database, checked before anything is opened.

use std::path::{Path, PathBuf};

use messages::Tenant;

use crate::error::{Error, ErrorKind};

/// A database that this version serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    pub file: PathBuf,
}

impl Database {
    /// The database at `uri` (`sqlite://PATH`; `sqlite:///abs/path` is absolute), or `tracker.db` in
    /// the home folder (`tracker_<tenant>.db` of another tenant than the default one).
    pub fn resolve(uri: Option<&str>, home: &Path, tenant: &Tenant) -> Result<Self, Error> {
        let Some(uri) = uri else {
            let name =
                if *tenant == Tenant::default() { "tracker.db".to_owned() } else { format!("tracker_{tenant}.db") };
            return Ok(Self { file: home.join(name) });
        };
        let config = |message: &str| Err(Error::new(ErrorKind::Config, format!("tracker_database: {message}")));
        let Some((scheme, rest)) = uri.split_once("://") else {
            return config(&format!("expected sqlite://PATH, got {:?}", without_secret(uri)));
        };
        match scheme {
            "mysql" | "mariadb" => config("mysql:// is not served; use sqlite://PATH"),
            _ if has_password(rest) => {
                config(&format!("a password inside {scheme}:// is refused: it would show in logs and process lists"))
            }
            "postgres" | "postgresql" => config("postgres:// is not yet supported; use sqlite://PATH"),
            "sqlite" if rest.is_empty() || rest.ends_with('/') => config("sqlite:// needs the path of a file"),
            "sqlite" if rest.contains(['?', '#']) => config("sqlite://PATH takes no options (`?`, `#`)"),
            "sqlite" if rest == ":memory:" => config("runs must outlive the process: sqlite://:memory: is refused"),
            "sqlite" => Ok(Self { file: PathBuf::from(rest) }),
            _ => config(&format!("scheme {scheme:?}: expected sqlite")),
        }
    }
}

/// Whether the authority part names a password: `user:password@host`.
fn has_password(rest: &str) -> bool {
    let authority = rest.split('/').next().unwrap_or_default();
    authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
}

fn without_secret(uri: &str) -> &str {
    uri.rsplit_once('@').map_or(uri, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(uri: &str) -> Result<PathBuf, String> {
        let database = Database::resolve(Some(uri), Path::new("/h"), &Tenant::default());
        database.map(|d| d.file).map_err(|error| error.to_string())
    }

    #[test]
    fn only_sqlite_files_are_served() {
        assert_eq!(resolve("sqlite:///var/t.db"), Ok("/var/t.db".into()));
        assert_eq!(resolve("sqlite://t.db"), Ok("t.db".into()));
        for (uri, word) in [
            ("mysql://u:p@h/db", "mysql://"),
            ("postgres://u@h/db", "not yet supported"),
            ("postgres://u:secret@h/db", "password"),
            ("sqlite://u:secret@h/db", "password"),
            ("sqlite://", "path of a file"),
            ("sqlite://a.db?mode=ro", "no options"),
            ("sqlite://:memory:", "outlive"),
            ("redis://h", "expected sqlite"),
            ("tracker.db", "sqlite://PATH"),
        ] {
            let error = resolve(uri).expect_err(uri);
            assert!(error.contains(word), "{uri}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn each_tenant_has_its_own_file_by_default() {
        let home = Path::new("/h");
        let file = |tenant| Database::resolve(None, home, &tenant).expect("default").file;
        assert_eq!(file(Tenant::default()), home.join("tracker.db"));
        assert_eq!(file(Tenant::new("acme").expect("id")), home.join("tracker_acme.db"));
    }
}
