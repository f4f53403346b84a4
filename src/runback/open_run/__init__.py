"""The open run: held, live, ended. Independent of tables, tasks, TrainConfig and MLflow."""
