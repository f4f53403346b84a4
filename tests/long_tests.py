"""Tests that take longest; `make chaos` runs them, so that `make test` stays below half an hour.

Each has a shorter sibling that `make test` runs: of the blocks of all pages, those of one page. Names
are those of functions, with the parameters if only some of a test's cases are meant.
"""

LONG = {
    "test_a_damaged_configuration_is_one_sentence[resume]",
    "test_a_dataset_object_trains_and_is_given_again",
    "test_a_fork_of_a_loop_that_does_not_fit_is_refused",
    "test_a_fork_takes_over_the_run_of_a_launcher",
    "test_a_fork_that_failed_at_once_goes_on",
    "test_a_frame_and_a_file_give_the_same_bits[bce]",
    "test_a_frame_and_a_file_give_the_same_bits[cross_entropy]",
    "test_a_frame_is_forked",
    "test_a_healthy_store_under_load_is_not_mentioned",
    "test_a_killed_example_is_bit_identical[characters-1]",
    "test_a_killed_example_is_bit_identical[steps-1]",
    "test_a_killed_fork_resumes_bit_identically[later]",
    "test_a_killed_loop_run_again_is_bit_identical[batch]",
    "test_a_killed_loop_run_again_is_bit_identical[noisy_sigterm]",
    "test_a_killed_loop_run_again_is_bit_identical[stream_sigint]",
    "test_a_lasting_outage_ends_with_the_way_out",
    "test_a_loop_over_steps_is_bit_identical",
    "test_a_model_of_torch_itself_needs_no_consent",
    "test_a_model_server_gives_the_same_bits_for_a_raw_table",
    "test_a_real_table_works_with_a_command_each[bikeshare]",
    "test_a_real_table_works_with_a_command_each[breast_cancer]",
    "test_a_real_table_works_with_a_command_each[iris]",
    "test_a_real_table_works_with_a_command_each[wage]",
    "test_a_real_table_works_with_a_command_each[wine]",
    "test_a_resume_posts_the_split_and_source_that_are_missing",
    "test_a_resume_registers_a_second_version",
    "test_a_resume_renames_and_has_one_best_a_step",
    "test_a_resume_waits_for_a_stopped_old_courier",
    "test_a_row_longer_than_a_read_block_is_read",
    "test_a_run_is_reproduced_from_its_commit",
    "test_a_run_killed_in_its_first_moment_can_be_whole",
    "test_a_run_of_images_resumes_and_reproduces",
    "test_a_run_of_mlflow_run_differs_in_one_option",
    "test_a_run_without_the_option_is_resumed_as_it_was",
    "test_a_signal_in_fit_ends_the_run_as_killed[int]",
    "test_a_training_needs_fewer_than_64_open_files[resume]",
    "test_an_accepted_alias_is_accepted_by_mlflow",
    "test_an_invalid_mlflow_run_is_one_failed_run",
    "test_an_older_folder_put_back_resumes_to_equal_bits",
    "test_faults_at_any_time_leave_whole_runs",
    "test_faults_of_the_requests_that_create_are_repaired",
    "test_four_simultaneous_starts_make_one_store",
    "test_killed_commands_resume_to_equal_results",
    "test_multiple_regression_converges",
    "test_other_test_rows_need_a_common_table",
    "test_own_functions_are_those_of_the_run_in_every_command",
    "test_promote_and_reproduce_need_no_file_either",
    "test_promote_and_rollback_through_a_server",
    "test_server_outages_lose_and_slow_nothing",
    "test_sigterm_inside_an_epoch_then_two_resumes_at_once",
    "test_the_arguments_of_a_dataset_are_used_again",
    "test_the_blocks_of_each_page_run",
    "test_the_run_that_was_given_is_resumed_or_done",
    "test_the_same_fork_goes_on_by_its_key",
}


def is_long(name: str) -> bool:
    """Whether a test's name, with its parameters, is listed."""
    return name in LONG or name.partition("[")[0] in LONG
