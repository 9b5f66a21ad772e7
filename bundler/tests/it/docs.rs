//! The commands of README.md and AIRGAP.md, run as they stand there: none is left out without a reason that is written here.

mod running;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;

pub use running::{assert_all_ended_well, hello, is_on_cluster};

/// Programs that a documented command starts with. Other lines of a block are what a program prints.
const PROGRAMS: [&str; 12] = [
    "airlock",
    "./airlock",
    "cargo",
    "cosign",
    "ctr",
    "curl",
    "docker",
    "helm",
    "htpasswd",
    "kubectl",
    "skopeo",
    "tar",
];

/// A command of a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Documented {
    /// The heading above it.
    pub section: String,
    /// Its number, counted from 1.
    pub line: usize,
    /// The command on one line, without the comment behind it.
    pub text: String,
}

impl fmt::Display for Documented {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "line {} ({}): {}", self.line, self.section, self.text)
    }
}

/// A document of the repository.
pub struct Document(String);

impl Document {
    pub fn read(name: &str) -> Self {
        let path = format!("{}/../{name}", env!("CARGO_MANIFEST_DIR"));
        Self(fs::read_to_string(path).expect(name))
    }

    /// The commands in its indented blocks, in order.
    pub fn commands(&self) -> Vec<Documented> {
        let mut found: Vec<Documented> = Vec::new();
        let (mut section, mut is_fenced, mut goes_on) = (String::new(), false, false);
        for (at, line) in self.0.lines().enumerate() {
            if line.starts_with("```") {
                is_fenced = !is_fenced;
            } else if let Some(heading) = line.strip_prefix('#').filter(|_| !is_fenced) {
                section = heading.trim_start_matches('#').trim().into();
            }
            let Some(code) = line.strip_prefix("    ").filter(|_| !is_fenced) else { continue };
            // A comment is set off by two spaces: `#` also stands in arguments.
            let code = code.split_once("  #").map_or(code, |(code, _)| code).trim();
            let (text, continues) = code.strip_suffix('\\').map_or((code, false), |text| (text.trim(), true));
            match found.last_mut().filter(|_| goes_on) {
                Some(last) => last.text += &format!(" {text}"),
                None if text.split(' ').next().is_some_and(|word| PROGRAMS.contains(&word)) => {
                    found.push(Documented { section: section.clone(), line: at + 1, text: text.into() });
                }
                None => continue,
            }
            goes_on = continues;
        }
        found
    }

    /// The content of its n-th fenced block of a language, counted from 0.
    pub fn block(&self, language: &str, number: usize) -> &str {
        let fence = format!("```{language}\n");
        let block = self.0.split(&fence).nth(number + 1).expect("a block");
        block.split("```").next().expect("its content")
    }

    /// Options of airlock that its text names: `--key`, as part of a command or alone.
    fn options(&self) -> BTreeSet<&str> {
        let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let words = self.0.split(|c| !word(c)).filter(|found| found.starts_with("--"));
        words.map(|found| found.trim_end_matches('-')).filter(|found| found.len() > 3).collect()
    }
}

/// Options that the documents name and that belong to other programs.
const OF_OTHERS: [&str; 14] = [
    "--build",
    "--bundle",
    "--cluster",
    "--create-namespace",
    "--feature-gates",
    "--insecure-ignore-tlog",
    "--locked",
    "--package",
    "--recursive",
    "--release",
    "--runtime-config",
    "--tlog-upload",
    "--use-signing-config",
    "--yes",
];

/// Returns the output of `--help` of airlock and of all its verbs.
fn all_help() -> String {
    let help = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_airlock"));
        let output = command.args(args).arg("--help").output().expect("airlock");
        String::from_utf8(output.stdout).expect("text")
    };
    let verbs = |help: &str| {
        let listed = help.split("Commands:\n").nth(1).unwrap_or_default().to_owned();
        let names = listed.lines().take_while(|line| !line.is_empty());
        let names: Vec<String> = names
            .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
            .map(|line| line.split_whitespace().next().unwrap_or_default().to_owned())
            .filter(|name| name != "help")
            .collect();
        names
    };
    let top = help(&[]);
    let mut all = top.clone();
    for verb in verbs(&top) {
        let text = help(&[&verb]);
        for below in verbs(&text) {
            all += &help(&[&verb, &below]);
        }
        all += &text;
    }
    all
}

#[test]
fn every_option_in_the_documents_exists() {
    let help = all_help();
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let known: BTreeSet<&str> = help.split(|c| !word(c)).filter(|found| found.starts_with("--")).collect();
    assert!(known.len() > 60, "{known:?}");
    for name in ["README.md", "AIRGAP.md"] {
        let document = Document::read(name);
        let unknown: Vec<&str> = document
            .options()
            .into_iter()
            .filter(|option| !known.contains(option) && !OF_OTHERS.contains(option))
            .collect();
        assert_eq!(unknown, [""; 0], "{name} names options that no --help has");
    }
}

#[test]
fn commands_are_told_from_what_is_printed() {
    let text = "# One\n\n    airlock lock   # pins\n    3 images\n\n```sh\n    airlock no\n```\n## Two\n\
                \x20   ./airlock serve a.tar \\\n      --listen x\n";
    let document = Document(text.into());
    let commands: Vec<_> = document.commands().into_iter().map(|c| (c.section, c.line, c.text)).collect();
    let expected = [
        ("One".to_owned(), 3, "airlock lock".to_owned()),
        ("Two".to_owned(), 10, "./airlock serve a.tar --listen x".to_owned()),
    ];
    assert_eq!(commands, expected);
}
