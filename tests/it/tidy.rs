//! Holds the sources to the house rules that no compiler checks: who may import whom, what a file opens with,
//! how long it may be, what stays out of code that runs, and what stays out of pure code.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use self::source::Source;

mod sleeps;
mod source;

#[test]
fn the_sources_keep_the_house_rules() {
    let sources = sources();
    let violations: Vec<_> = check(&sources).iter().map(ToString::to_string).collect();
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

/// All files of `src/`.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = |path: &PathBuf| {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap();
        Source::new(name, &fs::read_to_string(path).unwrap())
    };
    let sources: Vec<_> = rust_files(&root.join("src")).iter().map(source).collect();
    assert!(sources.iter().any(|source| source.path == "src/policy/retry.rs"), "the sources are not there");
    sources
}

/// The head of a module says what holds it: "Held by `a_test` and `another`."
#[test]
fn every_test_that_an_invariant_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &PathBuf| fs::read_to_string(path).unwrap();
    let sources: Vec<_> = rust_files(&root.join("src")).iter().map(read).collect();
    let tests: Vec<_> = rust_files(&root.join("tests")).iter().map(read).collect();
    let mut count = 0;
    for source in &sources {
        let head = source.lines().map_while(|line| line.strip_prefix("//!")).collect::<Vec<_>>().join(" ");
        for held in head.split("Held by ").skip(1) {
            let names = held.split('.').next().unwrap_or_default();
            for name in names.split('`').skip(1).step_by(2) {
                let function = format!("fn {name}(");
                assert!(
                    sources.iter().chain(&tests).any(|text| text.contains(&function)),
                    "no test `{name}`"
                );
                count += 1;
            }
        }
    }
    assert!(count > 40, "there are {count}");
}

#[test]
fn a_retired_word_is_in_no_source_no_page_and_no_metric() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = ["src", "tests", "bench", "docs", "config"]
        .iter()
        .flat_map(|folder| files_of(&root.join(folder), &["rs", "md", "toml", "py", "sh", "json"]))
        .collect();
    files.extend(["README.md", "ARCHITECTURE.md"].map(|page| root.join(page)));
    let old = ["bench/results", "docs/operate/upgrade.md", "tests/it/tidy.rs"].map(|path| root.join(path));
    let is_old = |file: &&PathBuf| old.iter().any(|path| file.starts_with(path));
    for file in files.iter().filter(|file| !is_old(file)) {
        let text = fs::read_to_string(file).unwrap();
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let is_retired = RETIRED.iter().any(|retired| match retired.strip_suffix('*') {
                Some(start) => word.starts_with(start),
                None => word == *retired,
            });
            assert!(!is_retired, "{}: `{word}` is retired, see the words in CONTRIBUTING.md", file.display());
        }
    }
}

/// Words that others have taken the place of; `*` stands for any rest.
const RETIRED: [&str; 13] = [
    "Brought",
    "InvalidLine",
    "LONGEST_*",
    "LineMetrics",
    "LineSettings",
    "MOST_*",
    "Surroundings",
    "hear_out",
    "leave_line",
    "line_us",
    "queue_us",
    "refused_line",
    "stent_line_*",
];

/// Modules of the second level that need each other, as `upstream::body` and `upstream::pool` do, are one duty in several
/// files, or a mistake.
#[test]
fn modules_need_each_other_only_where_that_is_allowed() {
    let sources = sources();
    let found = circles(&sources);
    let allows = |row: &str, circle: &[String]| {
        let names = |name: &str, module: &String| match name.strip_suffix('*') {
            Some(prefix) => module.starts_with(prefix),
            None => module == name,
        };
        circle.iter().all(|module| row.split(' ').any(|name| names(name, module)))
    };
    for circle in &found {
        assert!(CIRCLES.iter().any(|(row, _)| allows(row, circle)), "these need each other: {circle:?}");
    }
    for (row, _) in CIRCLES {
        assert!(found.iter().any(|circle| allows(row, circle)), "no circle any more: {row}");
    }
}

/// The modules that may need each other, each row with what makes them one duty; `*` stands for any module of a room.
const CIRCLES: [(&str, &str); 7] = [
    ("app app::control app::tls", "the control thread takes the orders and gives the errors of the room"),
    ("config config::*", "a key's kind, its text and its place are declared in terms of each other"),
    (
        "downstream::acceptor downstream::eviction downstream::limits",
        "a listener that is full makes idle connections leave, and counts them",
    ),
    (
        "downstream::connection downstream::http1 downstream::http2",
        "a connection hands itself to the protocol that it speaks",
    ),
    (
        "policy::hedge policy::hold policy::resume policy::settings",
        "the settings of a part are a field of the policy, and the part reads the others",
    ),
    ("proxy proxy::*", "an answer that breaks in the body goes on by the loop that made it"),
    (
        "upstream::body upstream::connect upstream::http2 upstream::pool",
        "the body of an answer gives its connection back to the pool",
    ),
];

/// The sets of modules that need each other, directly or through others, tests apart.
fn circles(sources: &[Source]) -> Vec<Vec<String>> {
    let for_tests: HashSet<_> =
        sources.iter().flat_map(|source| source.test_modules.iter().cloned()).collect();
    let running =
        || sources.iter().filter(|source| !source.modules().any(|module| for_tests.contains(&module)));
    let modules: HashSet<_> = running().map(Source::second_level).collect();
    let mut reaches: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in running() {
        let own = source.second_level();
        for path in source.paths() {
            let named = [2, 1].map(|length| path[..length.min(path.len())].join("::"));
            if let Some(other) =
                named.into_iter().find(|name| modules.contains(name)).filter(|name| *name != own)
            {
                reaches.entry(own.clone()).or_default().insert(other);
            }
        }
    }
    // What a module reaches, it reaches through others too.
    loop {
        let before: usize = reaches.values().map(BTreeSet::len).sum();
        for module in reaches.keys().cloned().collect::<Vec<_>>() {
            let further: Vec<_> =
                reaches[&module].iter().filter_map(|other| reaches.get(other)).flatten().cloned().collect();
            reaches.entry(module).or_default().extend(further);
        }
        if reaches.values().map(BTreeSet::len).sum::<usize>() == before {
            break;
        }
    }
    let mut circles = BTreeSet::new();
    for (module, reached) in reaches.iter().filter(|(module, reached)| reached.contains(*module)) {
        let is_back = |other: &&String| reaches.get(*other).is_some_and(|reached| reached.contains(module));
        circles.insert(reached.iter().filter(is_back).cloned().collect::<Vec<_>>());
    }
    circles.into_iter().collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    files_of(folder, &["rs"])
}

fn files_of(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            files.extend(files_of(&path, extensions));
        } else if path.extension().is_some_and(|of| extensions.iter().any(|extension| of == *extension)) {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Which of our modules a top-level module may import, beside itself; a module that is not listed may not exist.
/// `ARCHITECTURE.md` has the table.
static IMPORTS: LazyLock<HashMap<&str, Imports>> = LazyLock::new(|| table_of_imports(ARCHITECTURE));

const ARCHITECTURE: &str = include_str!("../../ARCHITECTURE.md");

enum Imports {
    All,
    Only(Vec<&'static str>),
}

fn table_of_imports(page: &'static str) -> HashMap<&'static str, Imports> {
    let rows = page.lines().skip_while(|line| *line != "| module | may import |").skip(2);
    let mut imports = HashMap::new();
    for row in rows.take_while(|row| row.starts_with('|')) {
        let [_, modules, may, _] = row.split('|').collect::<Vec<_>>()[..] else {
            panic!("two columns: {row}")
        };
        for module in names(modules) {
            let may =
                if may.trim() == "everything" { Imports::All } else { Imports::Only(names(may).collect()) };
            assert!(imports.insert(module, may).is_none(), "`{module}` has two rows");
        }
    }
    imports
}

/// What stands between backquotes.
fn names(cell: &'static str) -> impl Iterator<Item = &'static str> {
    cell.split('`').skip(1).step_by(2)
}

/// Beyond this a file surely has two reasons to change.
const LONGEST_FILE: usize = 700;

/// What a finished program does not hold; `expect` states an invariant, `unwrap` none.
const UNFINISHED: [&str; 4] = ["todo!", "unimplemented!", "dbg!", ".unwrap()"];

/// Effects and clocks, which a decision must not know.
const IMPURE: [&str; 6] = ["tokio", "hyper", "tracing", "prometheus", "Instant::now", "SystemTime::now"];

#[derive(Debug)]
struct Violation {
    file: String,
    line: usize,
    rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, rule } = self;
        write!(f, "{file}:{line}: {rule}")
    }
}

/// All violations, file by file. Code for tests is held only to the rules on whole files.
fn check(sources: &[Source]) -> Vec<Violation> {
    let for_tests: HashSet<_> =
        sources.iter().flat_map(|source| source.test_modules.iter().cloned()).collect();
    let mut violations = Vec::new();
    for source in sources {
        let mut report = |line, rule| violations.push(Violation { file: source.path.clone(), line, rule });
        check_opening(source, &mut report);
        check_length(source, &mut report);
        if !source.modules().any(|module| for_tests.contains(&module)) {
            check_imports(source, &mut report);
            check_words(source, &UNFINISHED, "does not belong in code that runs", &mut report);
            if source.top_module() == "policy" {
                check_words(source, &IMPURE, "does not belong in `policy`, which is pure", &mut report);
            }
        }
    }
    violations
}

fn check_opening(source: &Source, report: &mut impl FnMut(usize, String)) {
    let paragraph: Vec<_> =
        source.text.lines().map_while(|line| line.strip_prefix("//! ")).map(str::trim).collect();
    if !paragraph.last().is_some_and(|end| end.ends_with(['.', ':'])) {
        report(1, "a file opens with a `//!` sentence that says what it holds".into());
    }
}

fn check_length(source: &Source, report: &mut impl FnMut(usize, String)) {
    let lines = source.text.lines().count();
    if lines > LONGEST_FILE {
        report(LONGEST_FILE + 1, format!("a file has at most {LONGEST_FILE} lines, this one {lines}"));
    }
}

fn check_imports(source: &Source, report: &mut impl FnMut(usize, String)) {
    let importer = source.top_module();
    let Some(allowed) = IMPORTS.get(importer) else {
        return report(1, format!("`{importer}` is not in the table of imports"));
    };
    for (line, imported) in source.imports() {
        let known = IMPORTS.contains_key(&*imported);
        let may = match allowed {
            Imports::All => true,
            Imports::Only(modules) => imported == importer || modules.contains(&&*imported),
        };
        if !known {
            report(line, format!("`crate::{imported}` is not in the table of imports"));
        } else if !may {
            report(line, format!("`{importer}` may not import `{imported}`"));
        }
    }
}

fn check_words(source: &Source, words: &[&str], rule: &str, report: &mut impl FnMut(usize, String)) {
    for word in words {
        for line in source.lines_with(word) {
            report(line, format!("`{word}` {rule}"));
        }
    }
}

mod checker {
    use super::*;

    fn violations(files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<_> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
        check(&sources).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_clean_file_passes() {
        let text = "//! What it holds.\n\nuse crate::error::Delivery;\nuse crate::policy::verdict::Veto;\n";
        assert!(violations(&[("src/policy/retry.rs", text)]).is_empty());
    }

    #[test]
    fn an_import_that_the_table_does_not_allow_is_found_wherever_it_stands() {
        let text = "//! A.\nuse crate::proxy::Proxy;\nuse crate::{error::Delivery, config::{Config, app}, upstream};\n\
                    fn f() { crate::downstream::f(); }\n\
                    use super::route::Route;\n";
        assert_eq!(
            violations(&[("src/record.rs", text)]),
            [
                "src/record.rs:2: `record` may not import `proxy`",
                "src/record.rs:3: `record` may not import `config`",
                "src/record.rs:3: `record` may not import `upstream`",
                "src/record.rs:4: `record` may not import `downstream`",
                "src/record.rs:5: `record` may not import `route`",
            ]
        );
    }

    #[test]
    fn modules_that_need_each_other_are_found_through_others_and_not_in_tests() {
        let circles = |files: &[(&str, &str)]| {
            circles(&files.iter().map(|(path, text)| Source::new(path, text)).collect::<Vec<_>>())
        };
        let pool = ("src/upstream/pool.rs", "use crate::upstream::{tls, body::{Body, Silence}};");
        let tls = ("src/upstream/tls.rs", "mod a {\n    use super::super::body::Body;\n}");
        let body = ("src/upstream/body.rs", "use super::pool::Lease;");
        let apart =
            ("src/upstream/body.rs", "#[cfg(test)]\nmod tests {\n    use super::super::pool::Lease;\n}");
        let below = ("src/upstream/body/part.rs", "use super::super::pool::Lease;");
        assert_eq!(circles(&[pool, tls, body]), [["upstream::body", "upstream::pool", "upstream::tls"]]);
        assert_eq!(circles(&[pool, body]), [["upstream::body", "upstream::pool"]]);
        assert_eq!(circles(&[pool, below]), [["upstream::body", "upstream::pool"]]);
        assert!(circles(&[pool, tls, apart]).is_empty());
    }

    #[test]
    fn a_path_up_to_the_root_is_an_import_and_a_shorter_one_is_not() {
        let text = "//! A.\nuse super::proxy::A;\nuse super::super::proxy::B;\n";
        let found = violations(&[("src/record/log.rs", text)]);
        assert_eq!(found, ["src/record/log.rs:3: `record` may not import `proxy`"]);
        let text = "//! A.\nmod a {\n    use super::proxy::A;\n    use super::super::proxy::B;\n}\nuse super::proxy::C;\n";
        assert_eq!(
            violations(&[("src/record.rs", text)]),
            [
                "src/record.rs:4: `record` may not import `proxy`",
                "src/record.rs:6: `record` may not import `proxy`",
            ]
        );
    }

    #[test]
    fn each_module_is_held_to_its_own_row() {
        let text = "//! A.\nuse crate::config::Config;\n";
        for (path, allowed) in [
            ("src/app.rs", true),
            ("src/cli.rs", true),
            ("src/demo/load.rs", true),
            ("src/admin.rs", false),
            ("src/downstream/tls.rs", false),
            ("src/error.rs", false),
            ("src/policy.rs", false),
            ("src/proxy.rs", false),
            ("src/record.rs", false),
            ("src/route.rs", false),
            ("src/upstream/pool.rs", false),
            ("src/worker.rs", false),
        ] {
            assert_eq!(violations(&[(path, text)]).is_empty(), allowed, "{path}");
        }
    }

    #[test]
    fn a_module_that_is_not_in_the_table_is_found_as_importer_and_as_imported() {
        let found = violations(&[
            ("src/utilities.rs", "//! A.\n"),
            ("src/cli.rs", "//! A.\nuse crate::utilities;\n"),
        ]);
        assert_eq!(
            found,
            [
                "src/utilities.rs:1: `utilities` is not in the table of imports",
                "src/cli.rs:2: `crate::utilities` is not in the table of imports",
            ]
        );
    }

    #[test]
    fn a_file_without_an_opening_sentence_is_found() {
        let rule = "src/app.rs:1: a file opens with a `//!` sentence that says what it holds";
        for text in ["", "use std::io;\n", "//!\n", "//! App\n", "\n//! The wiring.\n", "// The wiring.\n"] {
            assert_eq!(violations(&[("src/app.rs", text)]), [rule], "{text:?}");
        }
        assert!(violations(&[("src/app.rs", "//! The wiring, and\n//! more.\n//!\n//! - a\n")]).is_empty());
    }

    #[test]
    fn a_file_over_the_limit_is_found() {
        let text = |lines: usize| format!("//! A.\n{}", "\n".repeat(lines - 1));
        assert!(violations(&[("src/app.rs", &text(700))]).is_empty());
        let found = violations(&[("src/app.rs", &text(701))]);
        assert_eq!(found, ["src/app.rs:701: a file has at most 700 lines, this one 701"]);
    }

    #[test]
    fn unfinished_code_is_found_outside_tests_only() {
        let text = "//! A.\nfn a() { todo!() }\nfn b() { unimplemented!() }\nfn c() { dbg!(1).unwrap(); }\n\
                    #[cfg(test)]\nmod tests {\n    fn d() { e().unwrap(); }\n}\nfn f() { g().unwrap(); }\n";
        let rule = "does not belong in code that runs";
        assert_eq!(
            violations(&[("src/app.rs", text)]),
            [
                format!("src/app.rs:2: `todo!` {rule}"),
                format!("src/app.rs:3: `unimplemented!` {rule}"),
                format!("src/app.rs:4: `dbg!` {rule}"),
                format!("src/app.rs:4: `.unwrap()` {rule}"),
                format!("src/app.rs:9: `.unwrap()` {rule}"),
            ]
        );
    }

    #[test]
    fn a_file_is_for_tests_only_where_its_declaration_says_so() {
        let inner = ("src/policy/budget/tests.rs", "//! A.\nfn a() { b().unwrap(); crate::proxy::c(); }\n");
        let below = ("src/policy/budget/tests/cases.rs", inner.1);
        let with = ("src/policy/budget.rs", "//! A.\n#[cfg(test)]\nmod tests;\n");
        let without = ("src/policy/budget.rs", "//! A.\nmod tests;\n");
        assert!(violations(&[with, inner, below]).is_empty());
        assert_eq!(violations(&[without, inner, below]).len(), 4);
    }

    #[test]
    fn effects_and_clocks_are_found_in_policy_only() {
        let text = "//! A.\nuse tokio::time::sleep;\nfn a() { Instant::now(); std::time::SystemTime::now(); }\n\
                    fn b(tracing_level: u8, now: Instant) {}\n";
        let rule = "does not belong in `policy`, which is pure";
        assert_eq!(
            violations(&[("src/policy/deadline.rs", text)]),
            [
                format!("src/policy/deadline.rs:2: `tokio` {rule}"),
                format!("src/policy/deadline.rs:3: `Instant::now` {rule}"),
                format!("src/policy/deadline.rs:3: `SystemTime::now` {rule}"),
            ]
        );
        assert!(violations(&[("src/upstream/pool.rs", text)]).is_empty());
    }

    #[test]
    fn comments_and_texts_are_not_code() {
        let text = "//! A.\n// crate::proxy, todo!\n/* .unwrap() /* nested */ dbg! */\n/// [`crate::proxy::Proxy`]\n\
                    const A: &str = \"todo! \\\" tokio\";\nconst B: &str = r#\"dbg!(\"x\") tokio\"#;\n\
                    const C: (char, u8) = ('\"', b'\\'');\nfn d<'a>(e: &'a str) { hyper() }\n";
        let found = violations(&[("src/policy/retry.rs", text)]);
        assert_eq!(found, ["src/policy/retry.rs:8: `hyper` does not belong in `policy`, which is pure"]);
    }
}
