"""A finished run in the forms that other tools read, one small file a tool.

Each package is imported where its tool is written, never before: `pip install "jaxssl[mlflow]"`
brings one. `jaxssl export RUN --to mlflow` calls these; from a program:

    from jaxssl import analysis
    from jaxssl.integrations import mlflow

    written = mlflow.export(analysis.read_run(run_dir), out)

`jaxssl.integrations.sklearn.JaxsslEmbedder` and `jaxssl.integrations.huggingface.unpack` go the
other way: a run in a scikit-learn pipeline, and a data set of Hugging Face as a folder of images.
Training knows none of them.
"""
