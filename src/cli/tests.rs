//! Exit codes, and what goes to which output.

use std::fs;

use clap::CommandFactory;

use super::*;

/// Runs a command line; gives its exit code and what it wrote to stdout and to stderr.
fn run(arguments: &[&str]) -> (ExitCode, String, String) {
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let mut terminal = Terminal { out: &mut out, errors: &mut errors, colour: Colour::None };
    let code = terminal.run(std::iter::once(&"stent").chain(arguments).map(OsString::from));
    (code, String::from_utf8(out).unwrap(), String::from_utf8(errors).unwrap())
}

#[test]
fn the_command_line_is_well_formed() {
    Arguments::command().debug_assert();
}

#[test]
fn a_good_file_is_summed_up() {
    let (code, out, errors) = run(&["check", "config/hosp.toml"]);
    assert_eq!(code, ExitCode::SUCCESS);
    assert_eq!(out, "ok: config/hosp.toml: 1 listener, 2 clusters, 5 routes\n");
    assert_eq!(errors, "");
}

#[test]
fn the_effective_configuration_goes_to_stdout() {
    let (code, out, _) = run(&["check", "config/hosp.toml", "--effective"]);
    assert_eq!(code, ExitCode::SUCCESS);
    assert_eq!(config::parse(&out, "out").unwrap(), config::load(Path::new("config/hosp.toml")).unwrap());
}

#[test]
fn a_bad_file_is_an_error_of_its_own_code_on_stderr() {
    let path = env::temp_dir().join(format!("stent-bad-{}.toml", std::process::id()));
    fs::write(&path, "[log]\nlevel = 1\n").unwrap();
    let name = path.to_str().unwrap();
    let results = [run(&["check", name]), run(&["explain", name, "GET /", "200"])];
    fs::remove_file(&path).unwrap();
    for (code, out, errors) in results {
        assert_eq!(code, ExitCode::from(2));
        assert_eq!(out, "");
        assert!(errors.contains(&format!(" --> {name}:2:9\n")), "{errors}");
        assert!(errors.ends_with(&format!("4 errors in {name}\n")), "{errors}");
    }
}

#[test]
fn a_missing_file_is_a_config_error() {
    let (code, _, errors) = run(&["check", "no/such.toml"]);
    assert_eq!(code, ExitCode::from(2));
    assert!(errors.contains("no/such.toml"), "{errors}");
}

#[test]
fn a_wrong_command_line_has_the_code_of_a_wrong_configuration() {
    for arguments in [
        &[][..],
        &["chek"],
        &["check"],
        &["demo", "--seconds", "0"],
        &["demo", "--failure-rate", "1.1"],
        &["explain", "config/hosp.toml", "GET"],
        &["explain", "config/hosp.toml", "GET /", "5xx"],
        &["explain", "config/hosp.toml", "GET /", "--body", "1MB"],
        &["explain", "config/hosp.toml", "GET /", "--header", "x"],
    ] {
        let (code, out, errors) = run(arguments);
        assert_eq!(code, ExitCode::from(2), "{arguments:?}");
        assert_eq!(out, "", "{arguments:?}");
        assert!(!errors.is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_is_an_answer_and_no_error() {
    for arguments in [["--help"], ["--version"]] {
        let (code, out, errors) = run(&arguments);
        assert_eq!(code, ExitCode::SUCCESS);
        assert!(out.contains("stent") && errors.is_empty(), "{out}");
    }
}

#[test]
fn what_is_not_given_has_the_documented_default() {
    let parse = |arguments: &[&str]| {
        Arguments::try_parse_from(std::iter::once(&"stent").chain(arguments)).unwrap().command
    };
    assert!(
        matches!(parse(&["run"]), Command::Run { config } if config == Path::new("/etc/stent/stent.toml"))
    );
    let Command::Demo { seconds, rate, failure_rate, hold } = parse(&["demo"]) else { panic!() };
    assert_eq!((seconds, rate, failure_rate.to_string(), hold), (30, 200, "0.12".to_owned(), false));
}
