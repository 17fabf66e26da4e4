//! The server's entrance: flags in, server up, exit code out.

use std::process::ExitCode;

use urd::{
    config::{Config, ConfigError, Parsed, usage},
    log,
    observe::{self, log::shown},
    server,
};

fn main() -> ExitCode {
    let words = std::env::args_os().skip(1);
    // Variables that are no text are none of ours.
    let variables =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    match Config::from_args(words, variables) {
        Ok(Parsed::Run(config)) => run(*config),
        Ok(Parsed::Version) => {
            print!("{}", usage::version());
            ExitCode::SUCCESS
        }
        Ok(Parsed::Help) => {
            print!("{}", usage::help());
            ExitCode::SUCCESS
        }
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &ConfigError) -> ExitCode {
    eprintln!("{error}");
    if error.is_usage {
        eprintln!("{}", usage::usage());
    }
    ExitCode::from(error.exit_code() as u8)
}

fn run(config: Config) -> ExitCode {
    if let Err(cause) = observe::log::start(&config.log) {
        eprintln!("{cause}");
        return ExitCode::FAILURE;
    }
    if let Some(path) = &config.config_file {
        let message = "loaded server configuration, other configuration command line flags and environment variables \
                       will be ignored if provided";
        log!(Info, message, "path" = path);
    }
    for warning in &config.warnings {
        log!(Warn, &warning.message, "about" = warning.about, "value" = warning.value);
    }
    match server::run(config) {
        Ok(never) => match never {},
        Err(cause) => {
            log!(Fatal, "cannot start the member", "error" = shown(&cause));
            eprintln!("urd: {cause}");
            ExitCode::FAILURE
        }
    }
}
