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
    let done = match cli::parse(std::env::args_os()) {
        Err(exit) => return exit,
        Ok(Command::Plugin(args)) => match cli::supervise(args) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Ok(Command::Upgrade(args)) => cli::upgrade(args),
        Ok(Command::About) => cli::about(),
        Ok(Command::Driver) => {
            let purge = worker::EnginePurge::new();
            cli::drive(|volumes, known| Arc::new(purge.with_local(volumes).knowing(known)))
        }
        Ok(Command::Umount { path, dead }) => {
            supervisor::umount_helper(&path, dead).map_err(Into::into)
        }
        Ok(Command::Empty { volumes }) => {
            data::Trash::within(&volumes).finish();
            Ok(())
        }
        Ok(Command::Status(args)) => cli::status(args),
        Ok(Command::Events(args)) => cli::events(args),
        Ok(Command::Probe(args)) => cli::probe(args),
        Ok(Command::Export(args)) => cli::export(args),
        Ok(Command::Takeover(args)) => cli::takeover(args),
        Ok(Command::Set(args)) => cli::set(args),
        Ok(Command::Settle(args)) => match cli::settle(args) {
            Ok(code) => return ExitCode::from(code),
            Err(error) => Err(error),
        },
        Ok(Command::Warm(args)) => match cli::warm(args) {
            Ok(code) => return ExitCode::from(code),
            Err(error) => Err(error),
        },
        Ok(Command::Credentials(command)) => match cli::credentials(command) {
            Ok(code) => return ExitCode::from(code),
            Err(error) => Err(error),
        },
        Ok(Command::Doctor(args)) => return judged(cli::doctor(args)),
        Ok(Command::Fsck(args)) => return judged(cli::fsck(args)),
        Ok(Command::Rebuild(args)) => return judged(cli::rebuild(args)),
        Ok(Command::Verify(args)) => return judged(cli::verify(args)),
        Ok(Command::Recovered(command)) => cli::recovered(command),
        Ok(Command::Mount(args)) => match cli::prepare_mount(args).and_then(serve_mount) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Ok(Command::Man { folder }) => cli::man(&folder),
        Ok(Command::Completions { shell }) => cli::completions(shell),
        Ok(Command::Worker) => return serve_volume(),
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
