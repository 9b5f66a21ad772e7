//! All settings, in one table: names, what they may be, defaults and meanings. Reading them, their errors, the list of
//! `--help` and the table in docs/service.md come from it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use tracing_subscriber::EnvFilter;

/// What a value may be.
pub enum Kind {
    /// Any text.
    Text,
    /// A path.
    File,
    /// Text that is never logged or shown.
    Secret,
    /// An IP address.
    Address,
    /// A whole number within bounds.
    Number(RangeInclusive<u64>),
    /// `true` or `false`.
    Switch,
    /// One of a few words.
    OneOf(&'static [&'static str]),
    /// `host:port`, one or several, with commas between.
    Servers,
    /// What tracing-subscriber takes as a filter.
    Filter,
}

/// One row of the table.
pub struct Setting {
    /// The name in the environment; in the file it is written in lower case.
    pub name: &'static str,
    /// What its value may be.
    pub kind: Kind,
    /// The value when none is given; empty for "not set".
    pub default: &'static str,
    /// What it is for.
    pub meaning: &'static str,
}

const fn row(name: &'static str, kind: Kind, default: &'static str, meaning: &'static str) -> Setting {
    Setting { name, kind, default, meaning }
}

/// Names the file; so it stands in the environment only.
pub const CONFIG_FILE: &str = "CONFIG_FILE";
const PORT: Kind = Kind::Number(1..=65535);

/// Every setting there is.
pub const SETTINGS: &[Setting] = &[
    row(CONFIG_FILE, Kind::File, "", "the TOML file; `--config PATH` says the same and goes first"),
    row("BIND_ADDRESS", Kind::Address, "0.0.0.0", "address to listen on; `::` for IPv6 and IPv4"),
    row("BIND_PORT", PORT, "8000", "port to listen on"),
    row(
        "REDIS_HOST",
        Kind::Text,
        "redis",
        "name or address of Redis; with TLS, the name its certificate must have",
    ),
    row("REDIS_PORT", PORT, "6379", "its port"),
    row("REDIS_DB", Kind::Number(0..=65535), "0", "number of the database"),
    row("REDIS_KEY", Kind::Text, "hits", "key of the counter"),
    row("REDIS_USERNAME", Kind::Text, "", "ACL user; needs a password"),
    row("REDIS_PASSWORD", Kind::Secret, "", "password"),
    row("REDIS_PASSWORD_FILE", Kind::File, "", "file that holds it, instead; followed while it changes"),
    row("REDIS_TLS", Kind::Switch, "false", "TLS to Redis, and to Sentinels"),
    row(
        "REDIS_TLS_CA_FILE",
        Kind::File,
        "",
        "PEM file with the authorities to trust; none: Mozilla's, built in",
    ),
    row("REDIS_TLS_CERT_FILE", Kind::File, "", "PEM file with the certificate chain to show; needs its key"),
    row("REDIS_TLS_KEY_FILE", Kind::File, "", "PEM file with that key, unencrypted"),
    row(
        "REDIS_SENTINELS",
        Kind::Servers,
        "",
        "Sentinels to ask for the master; `REDIS_HOST` and `REDIS_PORT` are not used then",
    ),
    row("REDIS_SENTINEL_MASTER", Kind::Text, "", "the master's name there; needed with `REDIS_SENTINELS`"),
    row("REDIS_SENTINEL_USERNAME", Kind::Text, "", "ACL user at the Sentinels"),
    row("REDIS_SENTINEL_PASSWORD", Kind::Secret, "", "password at the Sentinels"),
    row(
        "REDIS_SENTINEL_PASSWORD_FILE",
        Kind::File,
        "",
        "file that holds it, instead; followed while it changes",
    ),
    row("REQUEST_BUDGET_MS", Kind::Number(10..=60_000), "2000", "no request waits longer for Redis"),
    row(
        "SHUTDOWN_GRACE_MS",
        Kind::Number(0..=600_000),
        "10000",
        "how long open requests may take after SIGTERM",
    ),
    row(
        "HEADER_TIMEOUT_MS",
        Kind::Number(100..=60_000),
        "5000",
        "a client must have sent a request's head by then, and read some of an answer",
    ),
    row(
        "IDLE_TIMEOUT_MS",
        Kind::Number(100..=3_600_000),
        "75000",
        "how long a connection may wait for its next request; longer than what proxies in front keep theirs, so that it is they who close",
    ),
    row(
        "MAX_CONNECTIONS",
        Kind::Number(1..=100_000),
        "1024",
        "connections at a time; more are answered 503 and closed",
    ),
    row(
        "RUST_LOG",
        Kind::Filter,
        "info",
        "what is logged: `error`, `warn`, `info`, `debug`, `trace`, or by module (`service=debug`)",
    ),
    row("LOG_FORMAT", Kind::OneOf(&["json", "text"]), "json", "JSON lines, or text for people"),
];

impl Kind {
    /// What a value must be, as errors and the documentation say it.
    fn wanted(&self) -> String {
        match self {
            Self::Text => "text".into(),
            Self::File => "a path".into(),
            Self::Secret => "a secret".into(),
            Self::Address => "an IP address".into(),
            Self::Number(range) => format!("a number from {} to {}", range.start(), range.end()),
            Self::Switch => "true or false".into(),
            Self::OneOf(words) => words.join(" or "),
            Self::Servers => "host:port, with commas between several".into(),
            Self::Filter => "a filter such as info or service=debug".into(),
        }
    }

    fn accepts(&self, value: &str) -> bool {
        match self {
            Self::Text | Self::File | Self::Secret => true,
            Self::Address => value.parse::<IpAddr>().is_ok(),
            Self::Number(range) => value.parse().is_ok_and(|n| range.contains(&n)),
            Self::Switch => value.parse::<bool>().is_ok(),
            Self::OneOf(words) => words.contains(&value),
            Self::Servers => value.split(',').all(|server| host_and_port(server).is_some()),
            Self::Filter => EnvFilter::try_new(value).is_ok(),
        }
    }
}

/// The parts of `host:port`; an IPv6 address stands in brackets.
pub fn host_and_port(server: &str) -> Option<(String, u16)> {
    let (host, port) = server.trim().rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host = bare.unwrap_or(host);
    (!host.is_empty() && (bare.is_some() || !host.contains(':'))).then_some(())?;
    Some((host.to_owned(), port.parse().ok().filter(|p| *p > 0)?))
}

/// Values by name, each as its kind wants it, and all that was wrong with the others.
pub struct Values {
    values: BTreeMap<&'static str, String>,
    /// One message for each mistake.
    pub errors: Vec<String>,
}

impl Values {
    /// The file's `text` (TOML) and the environment over it. An empty value counts as not set.
    pub fn read(text: &str, environment: impl Fn(&str) -> Option<String>) -> Self {
        let mut read = Self { values: BTreeMap::new(), errors: Vec::new() };
        match text.parse::<toml::Table>() {
            Ok(table) => table.into_iter().for_each(|(key, value)| read.take_line(&key, value)),
            Err(e) => {
                // Its own text quotes the line, which may hold a password.
                let line = e.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
                let problem = format!("the configuration file is not TOML: line {line}: {}", e.message());
                read.errors.push(problem);
            }
        }
        for setting in SETTINGS {
            if let Some(value) = environment(setting.name).filter(|v| !v.is_empty()) {
                read.values.insert(setting.name, value);
            }
        }
        for setting in SETTINGS {
            let Some(value) = read.values.get(setting.name) else { continue };
            if !setting.kind.accepts(value) {
                let hint = match value.starts_with("tcp://") {
                    // What Kubernetes puts into every container for a Service called `redis`.
                    true => {
                        " (Kubernetes sets this for a Service of that name: set enableServiceLinks: false)"
                    }
                    false => "",
                };
                let wanted = setting.kind.wanted();
                read.errors.push(format!("{} must be {wanted}, not {value:?}{hint}", setting.name));
                read.values.remove(setting.name);
            }
        }
        read
    }

    fn take_line(&mut self, key: &str, value: toml::Value) {
        let in_file = SETTINGS.iter().filter(|s| s.name != CONFIG_FILE);
        let Some(setting) = in_file.clone().find(|s| s.name.to_ascii_lowercase() == key) else {
            let known = in_file.map(|s| s.name.to_ascii_lowercase());
            let nearest = known.min_by_key(|name| distance(name, key)).unwrap_or_default();
            let hint = match distance(&nearest, key) * 2 < key.len() {
                true => format!("did you mean {nearest:?}?"),
                false => "service --help lists them".into(),
            };
            let problem = format!("the configuration file has {key:?}, which is no setting: {hint}");
            return self.errors.push(problem);
        };
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(switch) => switch.to_string(),
            _ => {
                let wanted = setting.kind.wanted();
                return self.errors.push(format!("{key} in the configuration file must be {wanted}"));
            }
        };
        if !value.is_empty() {
            self.values.insert(setting.name, value);
        }
    }

    /// The value given, or else the default; `None` where that is "not set".
    pub fn text(&self, name: &str) -> Option<String> {
        let default = || SETTINGS.iter().find(|s| s.name == name).map(|s| s.default.to_owned());
        self.values.get(name).cloned().or_else(default).filter(|v| !v.is_empty())
    }

    /// The same, as a type that `Kind::accepts` has tried already.
    pub fn parsed<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }
}

/// How many letters differ (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let cost = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// The table as Markdown, for docs/service.md.
pub fn markdown() -> String {
    let mut text = String::from("| setting | default | what it may be | meaning |\n|---|---|---|---|\n");
    for Setting { name, kind, default, meaning } in SETTINGS {
        let default = if default.is_empty() { String::new() } else { format!("`{default}` ") };
        let _ = writeln!(text, "| `{name}` | {default}| {} | {meaning} |", kind.wanted());
    }
    text
}

/// The table for `--help`.
pub fn help() -> String {
    let mut text = String::new();
    for Setting { name, default, meaning, .. } in SETTINGS {
        let default = if default.is_empty() { String::new() } else { format!(" [{default}]") };
        let _ = writeln!(text, "  {name}{default}\n      {}", meaning.replace('`', ""));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &str, environment: &[(&str, &str)]) -> Values {
        Values::read(file, |name| environment.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn the_documentation_holds_exactly_this_table() {
        let document = include_str!("../../docs/service.md");
        let section = document.split("## Settings").nth(1).and_then(|rest| rest.split("\n## ").next());
        let rows = section.expect("a section on settings").lines().filter(|line| line.starts_with('|'));
        let rows: String = rows.map(|line| format!("{line}\n")).collect();
        assert_eq!(rows, markdown(), "docs/service.md, Settings, must hold:\n{}", markdown());
    }

    #[test]
    fn every_default_is_accepted() {
        for setting in SETTINGS.iter().filter(|s| !s.default.is_empty()) {
            assert!(setting.kind.accepts(setting.default), "{}", setting.name);
        }
    }

    #[test]
    fn the_environment_goes_over_the_file_and_the_file_over_defaults() {
        let file = "redis_host = \"a\"\nredis_port = 7000\nredis_tls = true\nredis_key = \"k\"";
        let values = read(file, &[("REDIS_HOST", "b"), ("REDIS_KEY", "")]);
        assert_eq!(values.errors, Vec::<String>::new());
        assert_eq!(values.text("REDIS_HOST").as_deref(), Some("b"));
        assert_eq!(values.text("REDIS_KEY").as_deref(), Some("k"));
        assert_eq!(values.parsed("REDIS_PORT"), Some(7000));
        assert_eq!(values.parsed("REDIS_TLS"), Some(true));
        assert_eq!(values.parsed("BIND_PORT"), Some(8000));
        assert_eq!(values.text("REDIS_PASSWORD"), None);
    }

    #[test]
    fn every_mistake_is_named_at_once() {
        let file = "redis_prot = 1\nredis_db = [1]\nconfig_file = \"x\"";
        let environment = [
            ("BIND_ADDRESS", "here"),
            ("BIND_PORT", "0"),
            ("REDIS_PORT", "tcp://10.0.0.1:6379"),
            ("REDIS_TLS", "yes"),
            ("REDIS_SENTINELS", "a:1,b"),
            ("RUST_LOG", "service=loud"),
            ("LOG_FORMAT", "xml"),
        ];
        assert_eq!(
            read(file, &environment).errors.join("\n"),
            "the configuration file has \"config_file\", which is no setting: service --help lists them\n\
             redis_db in the configuration file must be a number from 0 to 65535\n\
             the configuration file has \"redis_prot\", which is no setting: did you mean \"redis_port\"?\n\
             BIND_ADDRESS must be an IP address, not \"here\"\n\
             BIND_PORT must be a number from 1 to 65535, not \"0\"\n\
             REDIS_PORT must be a number from 1 to 65535, not \"tcp://10.0.0.1:6379\" (Kubernetes sets this for a \
             Service of that name: set enableServiceLinks: false)\n\
             REDIS_TLS must be true or false, not \"yes\"\n\
             REDIS_SENTINELS must be host:port, with commas between several, not \"a:1,b\"\n\
             RUST_LOG must be a filter such as info or service=debug, not \"service=loud\"\n\
             LOG_FORMAT must be json or text, not \"xml\""
        );
        let said = read("redis_db = 1\nredis_password = \"open", &[]).errors.join("; ");
        assert!(
            said.starts_with("the configuration file is not TOML: line 2: ") && !said.contains("open"),
            "{said}"
        );
    }

    #[test]
    fn servers_are_taken_apart() {
        let given = [("a:1", Some(("a", 1))), ("[::1]:2", Some(("::1", 2))), (" b:3 ", Some(("b", 3)))];
        for (text, expected) in given.into_iter().chain(["::1:2", "a", "a:0", ":1"].map(|t| (t, None))) {
            let found = host_and_port(text);
            assert_eq!(found.as_ref().map(|(host, port)| (host.as_str(), *port)), expected, "{text}");
        }
    }
}
