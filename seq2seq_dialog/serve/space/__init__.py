"""The files of a Space: a chat page that runs with transformers, torch and gradio alone."""
