"""Where a campaign is followed live: MLflow and Weights & Biases, behind one seam, and never in the campaign's way.

newsroom.py   events of the machine → news (pure): started, scored, mean moved, judged, ended
outlet.py     the coordinator's side: a process per tracker, a bounded queue before it, one warning at most
process.py    that process: tells a tracker what it does not know yet, and notes how far it came
mlflow_runs.py wandb_runs.py   the two trackers, each a function that takes news
"""
