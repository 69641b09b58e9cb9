//! The swarm from the command line: `cargo run --release -p sluicebox-sim -- --seeds 1000000`.
//!
//! Owns: nothing but the door. Does not own: the arguments (command).

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match sluicebox_sim::command::Command::parse(&arguments) {
        Ok(command) if command.run(&mut std::io::stdout()) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(wrong) => {
            drop(std::io::Write::write_all(&mut std::io::stderr(), format!("{wrong}\n").as_bytes()));
            ExitCode::from(64)
        }
    }
}
