//! Writes `docs/reference/commands.md` from the command line that clap knows; compiled for tests only.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, CommandFactory};

use super::Arguments;
use crate::testing::generated;

#[test]
fn the_reference_of_commands_is_current() {
    let mut stent = Arguments::command();
    stent.build();
    let mut page = OPENING.to_owned();
    for command in stent.get_subcommands_mut().filter(|command| command.get_name() != "help") {
        let usage = command.render_usage().to_string();
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        write!(page, "\n## `stent {}`\n\n{about}.\n\n", command.get_name()).expect(MEMORY);
        writeln!(page, "```text\n{}\n```\n", usage.trim_start_matches("Usage: ")).expect(MEMORY);
        page.push_str("| argument | default | meaning |\n|---|---|---|\n");
        for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
            writeln!(page, "| {} | {} | {} |", name(argument), default(argument), meaning(argument))
                .expect(MEMORY);
        }
        if let Some(example) = command.get_after_help() {
            let example = example.to_string();
            write!(page, "\n```text\n{}\n```\n", example.trim_end()).expect(MEMORY);
        }
    }
    generated("docs/reference/commands.md", &page);
}

/// The argument as it is written: `--seconds <SECONDS>`, `--hold`, `<CONFIG>`.
fn name(argument: &Arg) -> String {
    let takes_value = argument.get_action().takes_values();
    let names = argument.get_value_names().unwrap_or_default();
    let value = names.iter().map(|name| format!("<{name}>")).collect::<Vec<_>>().join(" ");
    match argument.get_long() {
        Some(long) if takes_value => format!("`--{long} {value}`"),
        Some(long) => format!("`--{long}`"),
        None => format!("`{value}`"),
    }
}

fn default(argument: &Arg) -> String {
    let values: Vec<_> =
        argument.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
    match argument.get_action() {
        ArgAction::SetTrue => "off".to_owned(),
        _ if !values.is_empty() => values.join(" "),
        _ if argument.is_required_set() => "required".to_owned(),
        _ => "none".to_owned(),
    }
}

fn meaning(argument: &Arg) -> String {
    argument.get_help().map(ToString::to_string).unwrap_or_default().replace('|', "\\|")
}

const MEMORY: &str = "writing to a string succeeds";

const OPENING: &str = "\
# Commands

<!-- Written from the code by a test. Do not edit: `UPDATE=1 cargo test` writes it. -->

Every command accepts `--help`. `stent --version` prints the version.

| exit code | meaning |
|---|---|
| 0 | The command succeeded. For `health`: the answer is 200. For `run`: SIGTERM or SIGINT ended the process, and it drained. |
| 1 | The command failed while it ran. For `health`: there is no answer, or it is not 200. |
| 2 | The configuration or the command line is wrong. |

Errors and warnings go to standard error, results to standard output.
";
