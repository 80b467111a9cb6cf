//! Where a webhook may go: a URL is checked against the allowed hosts before anything is sent, and shown
//! in logs without what may be a secret.

use messages::WireError;
use messages::error::Code;
use reqwest::Url;

/// Hosts that may be posted to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHosts {
    hosts: Vec<Allowed>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Allowed {
    Exactly(String),
    /// With the leading dot.
    Below(String),
}

impl AllowedHosts {
    /// # Errors
    /// `config_error` for what is no host name: a URL, a port, a lone `*`.
    pub fn new(hosts: &[String]) -> Result<Self, WireError> {
        let hosts = hosts.iter().map(|host| allowed(host)).collect::<Result<_, _>>()?;
        Ok(Self { hosts })
    }

    /// The address, if it may be posted to.
    ///
    /// # Errors
    /// `forbidden`, naming the host and the setting.
    pub fn check(&self, url: &str) -> Result<Url, WireError> {
        let forbidden =
            |message: String| WireError::new(Code::Forbidden, format!("webhook {}: {message}", redacted(url)));
        let parsed = Url::parse(url).map_err(|error| forbidden(format!("not a URL: {error}")))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(forbidden(format!("scheme {:?}: expected http or https", parsed.scheme())));
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(forbidden("a user or password in a URL is refused".into()));
        }
        let host = parsed.host_str().unwrap_or_default().trim_end_matches('.');
        let matches = |allowed: &Allowed| match allowed {
            Allowed::Exactly(name) => host == name,
            Allowed::Below(domain) => host.len() > domain.len() && host.ends_with(domain.as_str()),
        };
        if self.hosts.iter().any(matches) {
            return Ok(parsed);
        }
        Err(forbidden(format!("host {host:?} is not allowed"))
            .with_hint(format!("an operator allows it by adding {host} to `webhook_hosts`")))
    }
}

/// As [`Url`] writes it: lower case, punycode, IPv6 in brackets.
fn allowed(text: &str) -> Result<Allowed, WireError> {
    let wrong = || {
        WireError::new(
            Code::ConfigError,
            format!(
                "webhook_hosts: {text:?}: expected a host name, an address or *.DOMAIN, without scheme, port or path"
            ),
        )
    };
    let (name, below) = match text.strip_prefix("*.") {
        Some(domain) => (domain, true),
        None => (text, false),
    };
    let bracketed = if name.contains(':') && !name.starts_with('[') { format!("[{name}]") } else { name.to_owned() };
    let url = Url::parse(&format!("http://{bracketed}/")).map_err(|_| wrong())?;
    let host = url.host_str().unwrap_or_default();
    let plain = url.path() == "/" && url.port().is_none() && url.username().is_empty() && url.query().is_none();
    if host.is_empty() || host.contains('*') || !plain || name.contains('/') {
        return Err(wrong());
    }
    Ok(if below { Allowed::Below(format!(".{host}")) } else { Allowed::Exactly(host.to_owned()) })
}

/// The URL for a log: without user, password, query and fragment, which may hold secrets.
pub fn redacted(url: &str) -> String {
    let Ok(mut parsed) = Url::parse(url) else { return "(not a URL)".to_owned() };
    let hidden = parsed.query().is_some() || parsed.fragment().is_some();
    parsed.set_query(None);
    parsed.set_fragment(None);
    // Only a URL without a host refuses these, and it has neither.
    let _ = parsed.set_username("");
    let _ = parsed.set_password(None);
    if hidden { format!("{parsed}?…") } else { parsed.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(names: &[&str]) -> Result<AllowedHosts, WireError> {
        AllowedHosts::new(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn only_allowed_hosts_are_posted_to() {
        let allowed = hosts(&["localhost", "127.0.0.1", "Hooks.Example.com", "*.corp.example", "::1"]).expect("hosts");
        for good in [
            "http://localhost:8080/hook",
            "http://127.0.0.1/",
            "https://hooks.example.com./x",
            "https://HOOKS.example.com/x",
            "https://a.corp.example",
            "https://a.b.corp.example/?q=1",
            "http://[::1]:9/",
            // Other spellings of the same address.
            "http://127.1/",
            "http://0x7f000001/",
        ] {
            assert!(allowed.check(good).is_ok(), "{good}");
        }
        for bad in [
            "http://example.com/",
            "http://hooks.example.com.evil.org/",
            "https://corp.example/",
            "https://evilcorp.example/",
            "ftp://localhost/",
            "file:///etc/passwd",
            "http://user:pw@localhost/",
            "http://localhost@evil.org/",
            "http://127.0.0.2/",
            "http://169.254.169.254/latest",
            "not a url",
            "http://",
        ] {
            let error = allowed.check(bad).expect_err(bad);
            assert_eq!(error.code, Code::Forbidden, "{bad}");
            assert!(!error.retry);
        }
    }

    #[test]
    fn a_wrong_host_is_a_wrong_configuration() {
        for bad in ["http://localhost", "localhost:80", "a/b", "*", "*.", "", "a b", "user@host", "a?b", "*.*.org"] {
            assert!(hosts(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_log_shows_no_secret() {
        assert_eq!(redacted("https://h.example/hook?token=s3cret#x"), "https://h.example/hook?…");
        assert_eq!(redacted("https://u:pw@h.example/hook"), "https://h.example/hook");
        assert_eq!(redacted("s3cret"), "(not a URL)");
    }
}
