//! The rules of `docs/RULES.md` and what cites them: comments and the names of tests.
//!
//! A citation is a rule's number in a comment, alone, in a list, or as a range (`D1 to D7`), or
//! before the name of a test (`fn d8_…`, `fn d2_d9_…`). What stands in backticks is code and cites
//! nothing. A test of a protocol that looks like a rule says `http2`, not `h2`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
};

/// A letter and a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rule(u8, u8);

impl Rule {
    /// The rule with this number, if that is all of the text.
    fn parse(text: &str) -> Option<Self> {
        let (letter, number) = text.split_at_checked(1)?;
        let letter = letter
            .bytes()
            .next()
            .filter(|it| (b'A'..=b'N').contains(it))?;
        let is_number = number.len() <= 2 && number.bytes().all(|digit| digit.is_ascii_digit());
        Some(Self(letter, number.parse().ok().filter(|_| is_number)?))
    }

    /// The rules of the section from this one to before the last.
    fn up_to(self, last: Self) -> impl Iterator<Item = Self> {
        let end = if self.0 == last.0 { last.1 } else { 0 };
        (self.1..end).map(move |number| Self(self.0, number))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", char::from(self.0), self.1)
    }
}

/// Where citations are looked for. Not all of these exist at all times.
const FOLDERS: [&str; 6] = ["src", "tests", "testing", "benches", "fuzz", "examples"];

#[test]
fn every_rule_that_is_cited_exists() {
    let rules = rules();
    let mut unknown = BTreeMap::<String, BTreeSet<String>>::new();
    for file in files() {
        for rule in file.cited.iter().chain(&file.named) {
            if !rules.contains_key(rule) {
                let places = unknown.entry(rule.to_string()).or_default();
                places.insert(file.name.clone());
            }
        }
    }
    assert!(
        unknown.is_empty(),
        "these rules are cited and are not in docs/RULES.md: {unknown:#?}"
    );
}

#[test]
fn every_test_that_the_table_of_threats_names_exists() {
    let page = fs::read_to_string(root().join("docs/SECURITY.md")).expect("the table of threats");
    let sources: String = files().into_iter().map(|file| file.text).collect();
    let mut named = 0;
    for name in page.split('`').skip(1).step_by(2) {
        if Rule::parse(&name.split('_').next().unwrap_or_default().to_uppercase()).is_some()
            && name.contains('_')
        {
            named += 1;
            assert!(sources.contains(&format!("fn {name}(")), "no test {name}");
        }
    }
    assert!(named > 50, "{named} of them");
}

#[test]
fn every_rule_that_is_built_is_cited_by_a_test() {
    let (mut tested, mut named) = (BTreeSet::new(), BTreeSet::new());
    for file in files() {
        if file.name.split('/').any(|folder| folder == "tests") {
            tested.extend(file.cited);
        }
        named.extend(file.named);
    }
    tested.extend(&named);

    let (mut untested, mut stale) = (Vec::new(), Vec::new());
    for (rule, is_built) in rules() {
        if is_built && !tested.contains(&rule) {
            untested.push(rule.to_string());
        }
        if !is_built && named.contains(&rule) {
            stale.push(rule.to_string());
        }
    }
    assert!(
        untested.is_empty(),
        "no test cites these rules: {}",
        untested.join(", ")
    );
    assert!(
        stale.is_empty(),
        "docs/RULES.md says that these rules are not built yet, and tests are named after them: {}",
        stale.join(", ")
    );
}

#[test]
fn citations_are_told_from_what_only_looks_like_them() {
    for (text, expected) in [
        ("// (rules A1, B2 and C3): x", "A1 B2 C3"),
        ("x(); // rule K11", "K11"),
        (
            "/// D1 to\n/// D4, E5–E7, F1-F3.",
            "D1 D2 D3 D4 E5 E6 E7 F1 F2 F3",
        ),
        ("//! E9 to E11", "E9 E10 E11"),
        (
            "// `H2`, HTTP/2, E2E, sha-A1x, Z1, 3A4, K123, A_1, C3-PO",
            "",
        ),
        ("/* F1 */ let url = \"http://F2\"; // F3", "F3"),
        ("const H1: u8 = 1;", ""),
        (
            "    async fn d2_d9_a_401() {}\nfn e10_x() {}\nfn a1x() {}\nfn b1() {}",
            "D2 D9 E10",
        ),
    ] {
        let file = File::read("x.rs".into(), text);
        let found: BTreeSet<_> = file.cited.union(&file.named).collect();
        let found: Vec<_> = found.into_iter().map(Rule::to_string).collect();
        assert_eq!(found.join(" "), expected, "{text}");
    }
}

/// The rules, and whether each is built.
fn rules() -> BTreeMap<Rule, bool> {
    let text = fs::read_to_string(root().join("docs/RULES.md")).unwrap();
    let mut rules = BTreeMap::new();
    for line in text.lines() {
        let Some((number, rest)) = line
            .strip_prefix("- **")
            .and_then(|line| line.split_once("**"))
        else {
            continue;
        };
        let rule = Rule::parse(number)
            .unwrap_or_else(|| panic!("docs/RULES.md: {number} is no number of a rule"));
        let is_built = !rest.trim_start().starts_with("*(not built yet)*");
        let before = rules.insert(rule, is_built);
        assert!(before.is_none(), "docs/RULES.md has {rule} twice");
    }
    assert!(!rules.is_empty(), "docs/RULES.md has no rules");
    rules
}

/// What a file cites.
struct File {
    name: String,
    text: String,
    /// In its comments, or anywhere in a document.
    cited: BTreeSet<Rule>,
    /// By functions that are named after rules.
    named: BTreeSet<Rule>,
}

impl File {
    fn read(name: String, text: &str) -> Self {
        let is_document = name.ends_with(".md");
        let mut file = Self {
            name,
            text: text.to_owned(),
            cited: BTreeSet::new(),
            named: BTreeSet::new(),
        };
        if is_document {
            file.cited.extend(citations(text));
            return file;
        }
        // Lines of comments that follow each other are one text: a list may go on in the next.
        let mut comment = String::new();
        for line in text.lines() {
            let (code, more) = split_comment(line);
            if more.is_none() || !code.trim().is_empty() {
                file.cited.extend(citations(&std::mem::take(&mut comment)));
            }
            comment.extend([more.unwrap_or_default(), " "]);
            file.named.extend(named(code));
        }
        file.cited.extend(citations(&comment));
        file
    }
}

/// The code of a line, and its comment without the slashes, if it has one.
fn split_comment(line: &str) -> (&str, Option<&str>) {
    let is_in_string = |at: usize| {
        let count = |quote| line[..at].matches(quote).count();
        (count("\"") - count("\\\"") - count("'\"'")) % 2 == 1
    };
    let mut slashes = line.match_indices("//").map(|(at, _)| at);
    match slashes.find(|at| !is_in_string(*at)) {
        Some(at) => (
            &line[..at],
            Some(line[at..].trim_start_matches(['/', '!', ' '])),
        ),
        None => (line, None),
    }
}

/// The rules that a function is named after, if a line declares one.
fn named(code: &str) -> Vec<Rule> {
    let mut words = code.split_ascii_whitespace();
    let name = words.find(|word| *word == "fn").and_then(|_| words.next());
    // What follows the last underscore, be it a number, is no prefix.
    let (prefixes, _) = name.and_then(|it| it.rsplit_once('_')).unwrap_or_default();
    prefixes
        .split('_')
        .take_while(|prefix| prefix.starts_with(|first: char| first.is_ascii_lowercase()))
        .map_while(|prefix| Rule::parse(&prefix.to_ascii_uppercase()))
        .collect()
}

/// The rules that a text cites, ranges written out.
fn citations(text: &str) -> Vec<Rule> {
    // Every other part of it is in backticks.
    let text = text.split('`').step_by(2).collect::<Vec<_>>().join(" | ");
    let text = text.replace('–', " to ");
    let words = text
        .split(|c: char| !c.is_alphanumeric() && !"/-_".contains(c))
        .filter(|word| !word.is_empty());

    let mut rules = Vec::new();
    // The two words before.
    let mut before = ["", ""];
    for word in words {
        if let Some(rule) = Rule::parse(word) {
            rules.push(rule);
            if let (Some(first), "to") = (Rule::parse(before[0]), before[1]) {
                rules.extend(first.up_to(rule));
            }
        }
        let ends = word.split_once('-');
        if let Some((Some(first), Some(last))) =
            ends.map(|(first, last)| (Rule::parse(first), Rule::parse(last)))
        {
            rules.extend(first.up_to(last));
            rules.push(last);
        }
        before = [before[1], word];
    }
    rules
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files() -> Vec<File> {
    let mut folders: Vec<PathBuf> = FOLDERS.iter().map(|folder| root().join(folder)).collect();
    let documents = ["docs/RULES.md", "docs/SECURITY.md", "CONTRIBUTING.md"];
    let mut paths = documents.map(|name| root().join(name)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_name().and_then(|name| name.to_str());
            // What tools have left there is none of the project's.
            let is_foreign = |name: &str| {
                name.starts_with('.') || ["target", "node_modules", "corpus"].contains(&name)
            };
            match name {
                Some(name) if is_foreign(name) => {}
                _ if path.is_dir() => folders.push(path),
                Some(name) if name.ends_with(".rs") || name.ends_with(".md") => paths.push(path),
                _ => {}
            }
        }
    }
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(root()).unwrap_or(path);
        let name = name.to_string_lossy().replace('\\', "/");
        File::read(name, &fs::read_to_string(path).unwrap())
    };
    // What stands in this file are examples.
    let is_read = |path: &&PathBuf| path.exists() && !path.ends_with("tests/it/rules.rs");
    paths.iter().filter(is_read).map(read).collect()
}
