"""The truth about a campaign: its rows in SQL, who may write them, older versions, forks."""
