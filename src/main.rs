//! One binary for every role; each role's code is in its module.

use std::process::ExitCode;
use std::sync::Arc;

use s3vol::cli::{self, Command};
use s3vol::sys::{self, FuseMount};
use s3vol::{data, supervisor, telemetry, worker};

#[global_allocator]
static HEAP: sys::Heap = sys::Heap;

fn main() -> ExitCode {
    sys::hide_secrets();
    sys::forget_empty_variables();
    sys::name_process(c"s3vol");
    let command = match cli::parse(std::env::args_os()) {
        Err(exit) => return exit,
        Ok(command) => command,
    };
    if matches!(command, Command::Plugin(_) | Command::Driver | Command::Worker) {
        s3vol::credentials::Places::leave_profiles_out();
    }
    let done = match command {
        Command::Plugin(args) => match cli::supervise(args) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Upgrade(args) => cli::upgrade(args),
        Command::About => cli::about(),
        Command::Driver => {
            let purge = worker::EnginePurge::new();
            cli::drive(|volumes, known| Arc::new(purge.with_local(volumes).knowing(known)))
        }
        Command::Umount { path, dead } => {
            supervisor::umount_helper(&path, dead).map_err(Into::into)
        }
        Command::Empty { volumes } => {
            data::Trash::within(&volumes).finish();
            Ok(())
        }
        Command::Status(args) => cli::status(args),
        Command::Events(args) => cli::events(args),
        Command::Probe(args) => cli::probe(args),
        Command::Export(args) => cli::export(args),
        Command::Takeover(args) => cli::takeover(args),
        Command::Set(args) => cli::set(args),
        Command::Settle(args) => match cli::settle(args) {
            Ok(code) => return ExitCode::from(code),
            Err(error) => Err(error),
        },
        Command::Warm(args) => match cli::warm(args) {
            Ok(code) => return ExitCode::from(code),
            Err(error) => Err(error),
        },
        Command::Credentials(command) => match cli::credentials(command) {
            Ok(code) => return ExitCode::from(code),
            Err(error) => Err(error),
        },
        Command::Doctor(args) => return judged(cli::doctor(args)),
        Command::Fsck(args) => return judged(cli::fsck(args)),
        Command::Rebuild(args) => return judged(cli::rebuild(args)),
        Command::Verify(args) => return judged(cli::verify(args)),
        Command::Recovered(command) => cli::recovered(command),
        Command::Mount(args) => match cli::prepare_mount(args).and_then(serve_mount) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Man { folder } => cli::man(&folder),
        Command::Completions { shell } => cli::completions(shell),
        Command::Worker => return serve_volume(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("s3vol: {}", telemetry::with_causes(error.as_ref()));
            ExitCode::from(cli::exit_code(&error))
        }
    }
}

/// The exit code of a tool that judges: an error is none of its judgements.
fn judged(done: anyhow::Result<u8>) -> ExitCode {
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("s3vol: {}", telemetry::with_causes(error.as_ref()));
            match cli::exit_code(&error) {
                1 => ExitCode::from(cli::EXIT_NOT_JUDGED),
                code => ExitCode::from(code),
            }
        }
    }
}

/// The last line says what is left; the exit code, too.
fn serve_mount(mount: cli::PreparedMount) -> anyhow::Result<ExitCode> {
    match &mount.background {
        Some(command) => {
            worker::serve_detached(&mount.spec, command)?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            cli::start_log()?;
            let left = worker::serve_foreground(
                mount.spec.clone(),
                FuseMount {
                    readonly: mount.spec.options.readonly,
                    flags: mount.flags,
                    ..FuseMount::of(&mount.source)
                },
            )?;
            eprintln!("s3vol: {left}");
            Ok(ExitCode::from(left.code()))
        }
    }
}

fn serve_volume() -> ExitCode {
    let served = cli::start_log().and_then(|()| worker::serve_supervised());
    match served {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            tracing::error!("the worker ends: {}", telemetry::with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
