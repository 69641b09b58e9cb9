//! The program: hands its arguments to [`sluicebox::cli`] and returns the exit code.
//!
//! Owns: nothing. Does not own: everything.

fn main() -> std::process::ExitCode {
    sluicebox::cli::main()
}
