"""What the Streamlit pages stand on: the index of runs, charts, pictures, label sessions, starting the server."""
