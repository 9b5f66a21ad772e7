//! `.helmignore`, with the rules that helm has: they differ from those of `.gitignore`.

use super::ChartError;

/// What helm leaves out of every chart: dot files in `templates/`.
const DEFAULT: &str = "templates/.?*";

/// The patterns of a `.helmignore`, in their order.
pub(super) struct Rules(Vec<Rule>);

struct Rule {
    glob: Vec<Part>,
    negated: bool,
    directories_only: bool,
    /// Compared with the whole path; otherwise with its last component.
    whole_path: bool,
}

impl Rules {
    /// Reads a `.helmignore`; an empty text stands for none.
    pub(super) fn parse(text: &str) -> Result<Self, ChartError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.chain([DEFAULT]).map(rule).collect::<Result<_, _>>().map(Self)
    }

    /// Whether the file or directory at `path`, from the chart's directory, is left out.
    ///
    /// A negated pattern leaves out whatever it does NOT match: that is what helm does.
    pub(super) fn ignore(&self, path: &str, is_directory: bool) -> bool {
        let last = path.rsplit('/').next().unwrap_or(path);
        self.0.iter().any(|rule| {
            let subject: Vec<char> = if rule.whole_path { path } else { last }.chars().collect();
            let fits = (is_directory || !rule.directories_only) && matches(&rule.glob, &subject);
            fits != rule.negated
        })
    }
}

fn rule(line: &str) -> Result<Rule, ChartError> {
    let refuse = |why| ChartError::Ignore(line.into(), why);
    if line.contains("**") {
        return Err(refuse("has a double star, which helm does not support"));
    }
    let (negated, rest) = line.strip_prefix('!').map_or((false, line), |rest| (true, rest));
    let (directories_only, rest) = rest.strip_suffix('/').map_or((false, rest), |rest| (true, rest));
    let (anchored, rest) = rest.strip_prefix('/').map_or((false, rest), |rest| (true, rest));
    let glob = glob(rest).ok_or_else(|| refuse("is malformed"))?;
    Ok(Rule { glob, negated, directories_only, whole_path: anchored || rest.contains('/') })
}

/// A part of a pattern, as Go's `filepath.Match` has them.
enum Part {
    /// `*`: any characters but a slash.
    Any,
    /// `?`: one character but a slash.
    One,
    /// `[a-z]`, `[^a-z]`: one character in, or not in, these ranges.
    Class { ranges: Vec<(char, char)>, negated: bool },
    /// This character; `\` takes the meaning away from the one after it.
    Literal(char),
}

/// Reads a pattern; none when it is malformed.
fn glob(text: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(next) = chars.next() {
        parts.push(match next {
            '*' => Part::Any,
            '?' => Part::One,
            '\\' => Part::Literal(chars.next()?),
            '[' => {
                let negated = chars.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                while ranges.is_empty() || chars.next_if_eq(&']').is_none() {
                    let low = class_character(&mut chars)?;
                    let high =
                        if chars.next_if_eq(&'-').is_some() { class_character(&mut chars)? } else { low };
                    ranges.push((low, high));
                }
                Part::Class { ranges, negated }
            }
            literal => Part::Literal(literal),
        });
    }
    Some(parts)
}

fn class_character(chars: &mut impl Iterator<Item = char>) -> Option<char> {
    match chars.next()? {
        '-' | ']' => None,
        '\\' => chars.next(),
        plain => Some(plain),
    }
}

/// Whether all of `text` fits; in the time of their product, whatever the pattern.
fn matches(parts: &[Part], text: &[char]) -> bool {
    // reached[n]: the parts so far fit the first n characters.
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for part in parts {
        let mut next = vec![false; text.len() + 1];
        for at in 0..=text.len() {
            next[at] = match part {
                Part::Any => reached[at] || (at > 0 && next[at - 1] && text[at - 1] != '/'),
                _ => at > 0 && reached[at - 1] && one(part, text[at - 1]),
            };
        }
        reached = next;
    }
    reached[text.len()]
}

fn one(part: &Part, character: char) -> bool {
    match part {
        Part::Any => false,
        Part::One => character != '/',
        Part::Class { ranges, negated } => {
            ranges.iter().any(|(low, high)| (*low..=*high).contains(&character)) != *negated
        }
        Part::Literal(literal) => *literal == character,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignored(rules: &str, path: &str) -> bool {
        let directory = path.ends_with('/');
        Rules::parse(rules).expect(rules).ignore(path.trim_end_matches('/'), directory)
    }

    #[test]
    fn patterns_mean_what_they_mean_to_helm() {
        for (rules, path, expected) in [
            ("", "templates/.x", true),
            ("", "templates/a/.x", false),
            ("", ".x", false),
            ("*.bak", "a.bak", true),
            ("*.bak", "a/b.bak", true),
            ("*.bak", "a.bakx", false),
            ("# *.bak\n\n  *.tmp  ", "a.bak", false),
            ("# *.bak\n\n  *.tmp  ", "a.tmp", true),
            ("\u{feff}*.bak", "a.bak", true),
            ("/a", "a", true),
            ("/a", "b/a", false),
            ("b/*", "b/a", true),
            ("b/*", "b/a/c", false),
            ("a/", "a/", true),
            ("a/", "a", false),
            ("a/", "b/a/", true),
            ("a?c", "abc", true),
            ("/a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("\\*x", "*x", true),
            ("\\*x", "ax", false),
            ("a*b*c", "aXbXbc", true),
            ("!a", "a", false),
            ("!a", "b", true),
            ("!a\na", "a", true),
        ] {
            assert_eq!(ignored(rules, path), expected, "{rules:?} {path:?}");
        }
    }

    #[test]
    fn malformed_patterns_are_refused_and_hostile_ones_end() {
        for rules in ["a/**", "[", "[a", "[]", "[a-]", "[-a]", "a\\", "[^]"] {
            assert!(Rules::parse(rules).is_err(), "{rules:?}");
        }
        assert!(!ignored(&"*a".repeat(300), &"a".repeat(250).replace("aa", "ab")));
    }
}
