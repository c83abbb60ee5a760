//! Renders an execution in the dialect of its client.

use crate::adapter::azure::body::Rendered;
use crate::adapter::azure::dialect::ResponseForm;
use crate::adapter::azure::query::Query;
use crate::adapter::azure::{code, executions, language};
use crate::adapter::session::error::SessionError;
use crate::adapter::session::registry::{ExecutionHandle, State};

/// Renders how an execution stands, in the form that was asked for.
///
/// # Errors
/// The error in which the execution has ended, where the form has no place for one.
pub fn render<'a>(
    form: ResponseForm,
    handle: &ExecutionHandle,
    state: &'a State,
) -> Result<Rendered, &'a SessionError> {
    Ok(match (form, state) {
        (ResponseForm::Language | ResponseForm::Code, State::NotStarted) => {
            pending(handle, "NotStarted")
        }
        (ResponseForm::Language | ResponseForm::Code, State::Running) => pending(handle, "Running"),
        (_, State::Ended(result)) => {
            let outcome = (**result).as_ref()?;
            match form {
                ResponseForm::Language => Rendered::at_both_levels(
                    &language::ResponseFields::new(outcome),
                    Some(&language::Stages::new(outcome)),
                ),
                ResponseForm::Code => Rendered::ok(&code::CodeResponse::new(outcome)),
                ResponseForm::ShellExecute => {
                    Rendered::ok(&executions::ShellExecuted::new(handle, outcome))
                }
                _ => Rendered::ok(&executions::Resource::new(handle, state, form)),
            }
        }
        _ => Rendered::ok(&executions::Resource::new(handle, state, form)),
    })
}

fn pending(handle: &ExecutionHandle, status: &'static str) -> Rendered {
    let fields = executions::Pending::new(handle, status);
    Rendered::at_both_levels(&fields, None::<&()>)
}

/// Renders `GET /executions/{id}`: an execution resource, whatever dialect it was asked for in.
pub fn render_resource(handle: &ExecutionHandle, state: &State, query: &Query) -> Rendered {
    let form = ResponseForm::of_resource(handle.is_shell, query.value_is_text());
    Rendered::ok(&executions::Resource::new(handle, state, form))
}
