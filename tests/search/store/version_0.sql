BEGIN TRANSACTION;
CREATE TABLE assessments (
	campaign INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	split VARCHAR(10) NOT NULL, 
	asked INTEGER NOT NULL, 
	finished INTEGER, 
	state VARCHAR(10) NOT NULL, 
	score FLOAT, 
	cause TEXT, 
	PRIMARY KEY (campaign, number, split)
);
INSERT INTO "assessments" VALUES(1,0,'search',1,2,'scored',0.0,NULL);
INSERT INTO "assessments" VALUES(1,1,'search',3,4,'scored',3.33333333333333314829e-01,NULL);
INSERT INTO "assessments" VALUES(1,2,'search',5,6,'scored',3.33333333333333314829e-01,NULL);
INSERT INTO "assessments" VALUES(1,3,'search',7,8,'scored',3.33333333333333314829e-01,NULL);
INSERT INTO "assessments" VALUES(1,4,'search',9,10,'scored',3.33333333333333314829e-01,NULL);
INSERT INTO "assessments" VALUES(1,5,'search',11,12,'scored',3.33333333333333314829e-01,NULL);
INSERT INTO "assessments" VALUES(1,6,'search',13,14,'scored',3.33333333333333314829e-01,NULL);
INSERT INTO "assessments" VALUES(1,7,'search',15,16,'scored',6.66666666666666629659e-01,NULL);
INSERT INTO "assessments" VALUES(1,8,'search',17,18,'scored',6.66666666666666629659e-01,NULL);
INSERT INTO "assessments" VALUES(1,9,'search',19,20,'scored',3.33333333333333314829e-01,NULL);
INSERT INTO "assessments" VALUES(1,10,'search',21,22,'scored',3.33333333333333314829e-01,NULL);
INSERT INTO "assessments" VALUES(1,11,'search',23,24,'scored',6.66666666666666629659e-01,NULL);
INSERT INTO "assessments" VALUES(1,12,'search',25,26,'scored',3.33333333333333314829e-01,NULL);
INSERT INTO "assessments" VALUES(1,13,'search',27,NULL,'open',NULL,NULL);
CREATE TABLE campaigns (
	id INTEGER NOT NULL, 
	name VARCHAR(200) NOT NULL, 
	config JSON NOT NULL, 
	eval_key VARCHAR(200) NOT NULL, 
	items_digest VARCHAR(64) NOT NULL, 
	layers INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	created FLOAT NOT NULL, 
	seconds FLOAT NOT NULL, 
	time_up INTEGER, 
	verdict JSON, 
	PRIMARY KEY (id), 
	UNIQUE (name)
);
INSERT INTO "campaigns" VALUES(1,'simulated','{"name": "simulated", "base_model": "models/base", "sources": [{"model": "models/letters", "name": ""}, {"model": "models/numerals", "name": ""}, {"model": "models/plurals", "name": ""}], "dtype": null, "out_dtype": null, "seed": 1, "space": {"method": "task_arithmetic", "parameters": {"weight": {"low": 0.0, "high": 1.2, "start": 0.5}}, "fixed": {}, "modules": {"attention": "self_attn", "mlp": "mlp"}, "stages": [{"name": "global", "by": "global", "blocks": 0, "knots": 0, "search": [], "population": 4, "sigma": 0.25, "sobol": 2, "candidates": null}]}, "tasks": [{"name": "letters", "search": "letters_s", "selection": "letters_v", "holdout": "letters_h", "metric": "exact_match", "weight": 1.0}, {"name": "numerals", "search": "numerals_s", "selection": "numerals_v", "holdout": "numerals_h", "metric": "exact_match", "weight": 1.0}, {"name": "plurals", "search": "plurals_s", "selection": "plurals_v", "holdout": "plurals_h", "metric": "exact_match", "weight": 1.0}], "include_path": null, "items": {"window": {"0": 3}, "block_size": 60, "fresh": true, "search": null, "selection": null, "holdout": null}, "budget": {"items": 84, "candidates": null, "hours": null}, "sampler": "auto", "baselines": ["base", "parents", "uniform"], "comparators": ["parents", "base", "baselines", "best_global"], "selection": {"top": 1, "means": 1, "soup": 0}, "publish": {"to": null}, "evaluator": {"engine": "hf", "dtype": "float32", "threads": 1, "batch_size": 60, "attention": "eager", "device": "cpu"}, "store": null}','simulated-1','2acfbb99ad9a8adfacc2bb1c8f3ac9b2f9d061729dcf48dc2514f26bcb6bf163',3,1,1000.0,0.0,NULL,NULL);
CREATE TABLE candidates (
	campaign INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	stage INTEGER NOT NULL, 
	origin VARCHAR(20) NOT NULL, 
	label VARCHAR(200) NOT NULL, 
	cohort INTEGER, 
	params JSON NOT NULL, 
	recipe JSON NOT NULL, 
	recipe_hash VARCHAR(64) NOT NULL, 
	PRIMARY KEY (campaign, number)
);
INSERT INTO "candidates" VALUES(1,0,-1,'baseline','base',0,'{}','{"merge_method": "passthrough", "models": [{"model": "models/base"}]}','acf46e448e456f424cd116352650afc04c043806be1f1c8000c44678516ea6fa');
INSERT INTO "candidates" VALUES(1,1,-1,'baseline','parent letters',0,'{}','{"merge_method": "passthrough", "models": [{"model": "models/letters"}]}','82f1052594e70f310af605f251d7090d31a391f935da23162bb0f1ff9b682d27');
INSERT INTO "candidates" VALUES(1,2,-1,'baseline','parent numerals',0,'{}','{"merge_method": "passthrough", "models": [{"model": "models/numerals"}]}','1f2508da1b527ea2a477f31a2cf9174cdc06a484d940c8423af93ece43086399');
INSERT INTO "candidates" VALUES(1,3,-1,'baseline','parent plurals',0,'{}','{"merge_method": "passthrough", "models": [{"model": "models/plurals"}]}','1dffabc6b6bd18a41eb281ef92b4ab09524f020bc677a3ba103bb310851542cf');
INSERT INTO "candidates" VALUES(1,4,-1,'baseline','uniform',0,'{}','{"merge_method": "linear", "models": [{"model": "models/letters", "parameters": {"weight": 1.0}}, {"model": "models/numerals", "parameters": {"weight": 1.0}}, {"model": "models/plurals", "parameters": {"weight": 1.0}}], "parameters": {"normalize": true}}','eb432516f7c7798c43060fd9bf1a04e91ff17f5cec8b653af16f4d3bf74bc09d');
INSERT INTO "candidates" VALUES(1,5,0,'sobol','global 5',0,'{"weight/letters": 0.34375, "weight/numerals": 0.1953125, "weight/plurals": 0.70703125}','{"merge_method": "task_arithmetic", "base_model": "models/base", "models": [{"model": "models/letters", "parameters": {"weight": 0.34375}}, {"model": "models/numerals", "parameters": {"weight": 0.1953125}}, {"model": "models/plurals", "parameters": {"weight": 0.70703125}}], "seed": 1}','c29b7ab50efc9ccf77a81be85c1b755b68c88216ba5e96b6a3c08dcc02998da0');
INSERT INTO "candidates" VALUES(1,6,0,'sobol','global 6',0,'{"weight/letters": 1.13671875, "weight/numerals": 0.7265625, "weight/plurals": 0.2109375}','{"merge_method": "task_arithmetic", "base_model": "models/base", "models": [{"model": "models/letters", "parameters": {"weight": 1.13671875}}, {"model": "models/numerals", "parameters": {"weight": 0.7265625}}, {"model": "models/plurals", "parameters": {"weight": 0.2109375}}], "seed": 1}','cd906b2aea29ad949e0df079ff778a333519da265e8cad0970b8a1775b5d74ce');
INSERT INTO "candidates" VALUES(1,7,0,'sampler','global 7',1,'{"weight/letters": 0.94140625, "weight/numerals": 0.80078125, "weight/plurals": 0.203125}','{"merge_method": "task_arithmetic", "base_model": "models/base", "models": [{"model": "models/letters", "parameters": {"weight": 0.94140625}}, {"model": "models/numerals", "parameters": {"weight": 0.80078125}}, {"model": "models/plurals", "parameters": {"weight": 0.203125}}], "seed": 1}','c7b74f35a55941e85e639ebd9ec3bbf892c48e0bcc62907b30ffa1b31acbb9f4');
INSERT INTO "candidates" VALUES(1,8,0,'sampler','global 8',1,'{"weight/letters": 0.1484375, "weight/numerals": 0.3828125, "weight/plurals": 0.94140625}','{"merge_method": "task_arithmetic", "base_model": "models/base", "models": [{"model": "models/letters", "parameters": {"weight": 0.1484375}}, {"model": "models/numerals", "parameters": {"weight": 0.3828125}}, {"model": "models/plurals", "parameters": {"weight": 0.94140625}}], "seed": 1}','fca139c0f55ece11c6eaa9c9b20dd14de6e48977add2a7b79e615c780dc93c10');
INSERT INTO "candidates" VALUES(1,9,0,'sampler','global 9',1,'{"weight/letters": 0.58203125, "weight/numerals": 0.0078125, "weight/plurals": 0.390625}','{"merge_method": "task_arithmetic", "base_model": "models/base", "models": [{"model": "models/letters", "parameters": {"weight": 0.58203125}}, {"model": "models/numerals", "parameters": {"weight": 0.0078125}}, {"model": "models/plurals", "parameters": {"weight": 0.390625}}], "seed": 1}','db3a56dafb4eb78c4558e736b183a6d89d0f23a28dafd456cdd34160140cab13');
INSERT INTO "candidates" VALUES(1,10,0,'sampler','global 10',1,'{"weight/letters": 0.140625, "weight/numerals": 0.47265625, "weight/plurals": 0.25390625}','{"merge_method": "task_arithmetic", "base_model": "models/base", "models": [{"model": "models/letters", "parameters": {"weight": 0.140625}}, {"model": "models/numerals", "parameters": {"weight": 0.47265625}}, {"model": "models/plurals", "parameters": {"weight": 0.25390625}}], "seed": 1}','be1747fa111cc9b10dc62dff3723c27bfa8d27aa64c98ee4dc846dc0241d448d');
INSERT INTO "candidates" VALUES(1,11,0,'sampler','global 11',2,'{"weight/letters": 0.69140625, "weight/numerals": 0.421875, "weight/plurals": 0.375}','{"merge_method": "task_arithmetic", "base_model": "models/base", "models": [{"model": "models/letters", "parameters": {"weight": 0.69140625}}, {"model": "models/numerals", "parameters": {"weight": 0.421875}}, {"model": "models/plurals", "parameters": {"weight": 0.375}}], "seed": 1}','76807a02d58139a50cc69a6558e29d36a44a890f33717ecd8623326f36954e9b');
INSERT INTO "candidates" VALUES(1,12,0,'sampler','global 12',2,'{"weight/letters": 1.04296875, "weight/numerals": 0.4296875, "weight/plurals": 0.22265625}','{"merge_method": "task_arithmetic", "base_model": "models/base", "models": [{"model": "models/letters", "parameters": {"weight": 1.04296875}}, {"model": "models/numerals", "parameters": {"weight": 0.4296875}}, {"model": "models/plurals", "parameters": {"weight": 0.22265625}}], "seed": 1}','66097465efc8a940174f436523842fa7e40cbcc568ad189b41841fba5277fb59');
INSERT INTO "candidates" VALUES(1,13,0,'sampler','global 13',2,'{"weight/letters": 0.7890625, "weight/numerals": 0.71484375, "weight/plurals": 0.57421875}','{"merge_method": "task_arithmetic", "base_model": "models/base", "models": [{"model": "models/letters", "parameters": {"weight": 0.7890625}}, {"model": "models/numerals", "parameters": {"weight": 0.71484375}}, {"model": "models/plurals", "parameters": {"weight": 0.57421875}}], "seed": 1}','aa8389c9e3da0ec6125c701a1047f8448d3a40f42b9d844bb805f1d72070a36f');
CREATE TABLE cohorts (
	campaign INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	stage INTEGER NOT NULL, 
	capacity INTEGER NOT NULL, 
	start INTEGER NOT NULL, 
	size INTEGER NOT NULL, 
	PRIMARY KEY (campaign, number)
);
INSERT INTO "cohorts" VALUES(1,0,0,7,0,3);
INSERT INTO "cohorts" VALUES(1,1,0,4,3,3);
INSERT INTO "cohorts" VALUES(1,2,0,4,6,3);
CREATE TABLE epochs (
	campaign INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	pid INTEGER NOT NULL, 
	started VARCHAR(40) NOT NULL, 
	host VARCHAR(300) NOT NULL, 
	at FLOAT NOT NULL, 
	PRIMARY KEY (campaign, epoch)
);
INSERT INTO "epochs" VALUES(1,1,1,'0','somewhere',1000.0);
CREATE TABLE item_scores (
	eval_key VARCHAR(200) NOT NULL, 
	recipe_hash VARCHAR(64) NOT NULL, 
	item VARCHAR(300) NOT NULL, 
	score FLOAT NOT NULL, 
	lease VARCHAR(60) NOT NULL, 
	PRIMARY KEY (eval_key, recipe_hash, item)
)
 WITHOUT ROWID

;
INSERT INTO "item_scores" VALUES('simulated-1','1dffabc6b6bd18a41eb281ef92b4ab09524f020bc677a3ba103bb310851542cf','letters_search/0001',0.0,'1.4');
INSERT INTO "item_scores" VALUES('simulated-1','1dffabc6b6bd18a41eb281ef92b4ab09524f020bc677a3ba103bb310851542cf','numerals_search/0005',0.0,'1.4');
INSERT INTO "item_scores" VALUES('simulated-1','1dffabc6b6bd18a41eb281ef92b4ab09524f020bc677a3ba103bb310851542cf','plurals_search/0006',1.0,'1.4');
INSERT INTO "item_scores" VALUES('simulated-1','1f2508da1b527ea2a477f31a2cf9174cdc06a484d940c8423af93ece43086399','letters_search/0001',0.0,'1.3');
INSERT INTO "item_scores" VALUES('simulated-1','1f2508da1b527ea2a477f31a2cf9174cdc06a484d940c8423af93ece43086399','numerals_search/0005',1.0,'1.3');
INSERT INTO "item_scores" VALUES('simulated-1','1f2508da1b527ea2a477f31a2cf9174cdc06a484d940c8423af93ece43086399','plurals_search/0006',0.0,'1.3');
INSERT INTO "item_scores" VALUES('simulated-1','66097465efc8a940174f436523842fa7e40cbcc568ad189b41841fba5277fb59','letters_search/0000',1.0,'1.13');
INSERT INTO "item_scores" VALUES('simulated-1','66097465efc8a940174f436523842fa7e40cbcc568ad189b41841fba5277fb59','numerals_search/0001',0.0,'1.13');
INSERT INTO "item_scores" VALUES('simulated-1','66097465efc8a940174f436523842fa7e40cbcc568ad189b41841fba5277fb59','plurals_search/0000',0.0,'1.13');
INSERT INTO "item_scores" VALUES('simulated-1','76807a02d58139a50cc69a6558e29d36a44a890f33717ecd8623326f36954e9b','letters_search/0000',1.0,'1.12');
INSERT INTO "item_scores" VALUES('simulated-1','76807a02d58139a50cc69a6558e29d36a44a890f33717ecd8623326f36954e9b','numerals_search/0001',0.0,'1.12');
INSERT INTO "item_scores" VALUES('simulated-1','76807a02d58139a50cc69a6558e29d36a44a890f33717ecd8623326f36954e9b','plurals_search/0000',1.0,'1.12');
INSERT INTO "item_scores" VALUES('simulated-1','82f1052594e70f310af605f251d7090d31a391f935da23162bb0f1ff9b682d27','letters_search/0001',1.0,'1.2');
INSERT INTO "item_scores" VALUES('simulated-1','82f1052594e70f310af605f251d7090d31a391f935da23162bb0f1ff9b682d27','numerals_search/0005',0.0,'1.2');
INSERT INTO "item_scores" VALUES('simulated-1','82f1052594e70f310af605f251d7090d31a391f935da23162bb0f1ff9b682d27','plurals_search/0006',0.0,'1.2');
INSERT INTO "item_scores" VALUES('simulated-1','acf46e448e456f424cd116352650afc04c043806be1f1c8000c44678516ea6fa','letters_search/0001',0.0,'1.1');
INSERT INTO "item_scores" VALUES('simulated-1','acf46e448e456f424cd116352650afc04c043806be1f1c8000c44678516ea6fa','numerals_search/0005',0.0,'1.1');
INSERT INTO "item_scores" VALUES('simulated-1','acf46e448e456f424cd116352650afc04c043806be1f1c8000c44678516ea6fa','plurals_search/0006',0.0,'1.1');
INSERT INTO "item_scores" VALUES('simulated-1','be1747fa111cc9b10dc62dff3723c27bfa8d27aa64c98ee4dc846dc0241d448d','letters_search/0007',0.0,'1.11');
INSERT INTO "item_scores" VALUES('simulated-1','be1747fa111cc9b10dc62dff3723c27bfa8d27aa64c98ee4dc846dc0241d448d','numerals_search/0004',1.0,'1.11');
INSERT INTO "item_scores" VALUES('simulated-1','be1747fa111cc9b10dc62dff3723c27bfa8d27aa64c98ee4dc846dc0241d448d','plurals_search/0004',0.0,'1.11');
INSERT INTO "item_scores" VALUES('simulated-1','c29b7ab50efc9ccf77a81be85c1b755b68c88216ba5e96b6a3c08dcc02998da0','letters_search/0001',0.0,'1.6');
INSERT INTO "item_scores" VALUES('simulated-1','c29b7ab50efc9ccf77a81be85c1b755b68c88216ba5e96b6a3c08dcc02998da0','numerals_search/0005',0.0,'1.6');
INSERT INTO "item_scores" VALUES('simulated-1','c29b7ab50efc9ccf77a81be85c1b755b68c88216ba5e96b6a3c08dcc02998da0','plurals_search/0006',1.0,'1.6');
INSERT INTO "item_scores" VALUES('simulated-1','c7b74f35a55941e85e639ebd9ec3bbf892c48e0bcc62907b30ffa1b31acbb9f4','letters_search/0007',1.0,'1.8');
INSERT INTO "item_scores" VALUES('simulated-1','c7b74f35a55941e85e639ebd9ec3bbf892c48e0bcc62907b30ffa1b31acbb9f4','numerals_search/0004',1.0,'1.8');
INSERT INTO "item_scores" VALUES('simulated-1','c7b74f35a55941e85e639ebd9ec3bbf892c48e0bcc62907b30ffa1b31acbb9f4','plurals_search/0004',0.0,'1.8');
INSERT INTO "item_scores" VALUES('simulated-1','cd906b2aea29ad949e0df079ff778a333519da265e8cad0970b8a1775b5d74ce','letters_search/0001',0.0,'1.7');
INSERT INTO "item_scores" VALUES('simulated-1','cd906b2aea29ad949e0df079ff778a333519da265e8cad0970b8a1775b5d74ce','numerals_search/0005',1.0,'1.7');
INSERT INTO "item_scores" VALUES('simulated-1','cd906b2aea29ad949e0df079ff778a333519da265e8cad0970b8a1775b5d74ce','plurals_search/0006',0.0,'1.7');
INSERT INTO "item_scores" VALUES('simulated-1','db3a56dafb4eb78c4558e736b183a6d89d0f23a28dafd456cdd34160140cab13','letters_search/0007',1.0,'1.10');
INSERT INTO "item_scores" VALUES('simulated-1','db3a56dafb4eb78c4558e736b183a6d89d0f23a28dafd456cdd34160140cab13','numerals_search/0004',0.0,'1.10');
INSERT INTO "item_scores" VALUES('simulated-1','db3a56dafb4eb78c4558e736b183a6d89d0f23a28dafd456cdd34160140cab13','plurals_search/0004',0.0,'1.10');
INSERT INTO "item_scores" VALUES('simulated-1','eb432516f7c7798c43060fd9bf1a04e91ff17f5cec8b653af16f4d3bf74bc09d','letters_search/0001',0.0,'1.5');
INSERT INTO "item_scores" VALUES('simulated-1','eb432516f7c7798c43060fd9bf1a04e91ff17f5cec8b653af16f4d3bf74bc09d','numerals_search/0005',1.0,'1.5');
INSERT INTO "item_scores" VALUES('simulated-1','eb432516f7c7798c43060fd9bf1a04e91ff17f5cec8b653af16f4d3bf74bc09d','plurals_search/0006',0.0,'1.5');
INSERT INTO "item_scores" VALUES('simulated-1','fca139c0f55ece11c6eaa9c9b20dd14de6e48977add2a7b79e615c780dc93c10','letters_search/0007',0.0,'1.9');
INSERT INTO "item_scores" VALUES('simulated-1','fca139c0f55ece11c6eaa9c9b20dd14de6e48977add2a7b79e615c780dc93c10','numerals_search/0004',1.0,'1.9');
INSERT INTO "item_scores" VALUES('simulated-1','fca139c0f55ece11c6eaa9c9b20dd14de6e48977add2a7b79e615c780dc93c10','plurals_search/0004',1.0,'1.9');
CREATE TABLE items (
	campaign INTEGER NOT NULL, 
	item VARCHAR(300) NOT NULL, 
	split VARCHAR(10) NOT NULL, 
	task VARCHAR(200) NOT NULL, 
	PRIMARY KEY (campaign, item)
);
INSERT INTO "items" VALUES(1,'letters_search/0001','search','letters');
INSERT INTO "items" VALUES(1,'numerals_search/0005','search','numerals');
INSERT INTO "items" VALUES(1,'plurals_search/0006','search','plurals');
INSERT INTO "items" VALUES(1,'letters_search/0007','search','letters');
INSERT INTO "items" VALUES(1,'numerals_search/0004','search','numerals');
INSERT INTO "items" VALUES(1,'plurals_search/0004','search','plurals');
INSERT INTO "items" VALUES(1,'letters_search/0000','search','letters');
INSERT INTO "items" VALUES(1,'numerals_search/0001','search','numerals');
INSERT INTO "items" VALUES(1,'plurals_search/0000','search','plurals');
INSERT INTO "items" VALUES(1,'letters_search/0004','search','letters');
INSERT INTO "items" VALUES(1,'numerals_search/0002','search','numerals');
INSERT INTO "items" VALUES(1,'plurals_search/0002','search','plurals');
INSERT INTO "items" VALUES(1,'letters_search/0005','search','letters');
INSERT INTO "items" VALUES(1,'numerals_search/0006','search','numerals');
INSERT INTO "items" VALUES(1,'plurals_search/0005','search','plurals');
INSERT INTO "items" VALUES(1,'letters_search/0002','search','letters');
INSERT INTO "items" VALUES(1,'numerals_search/0007','search','numerals');
INSERT INTO "items" VALUES(1,'plurals_search/0003','search','plurals');
INSERT INTO "items" VALUES(1,'letters_search/0006','search','letters');
INSERT INTO "items" VALUES(1,'numerals_search/0000','search','numerals');
INSERT INTO "items" VALUES(1,'plurals_search/0001','search','plurals');
INSERT INTO "items" VALUES(1,'letters_search/0003','search','letters');
INSERT INTO "items" VALUES(1,'numerals_search/0003','search','numerals');
INSERT INTO "items" VALUES(1,'plurals_search/0007','search','plurals');
INSERT INTO "items" VALUES(1,'letters_selection/0001','selection','letters');
INSERT INTO "items" VALUES(1,'numerals_selection/0001','selection','numerals');
INSERT INTO "items" VALUES(1,'plurals_selection/0000','selection','plurals');
INSERT INTO "items" VALUES(1,'letters_selection/0002','selection','letters');
INSERT INTO "items" VALUES(1,'numerals_selection/0002','selection','numerals');
INSERT INTO "items" VALUES(1,'plurals_selection/0002','selection','plurals');
INSERT INTO "items" VALUES(1,'letters_selection/0000','selection','letters');
INSERT INTO "items" VALUES(1,'numerals_selection/0000','selection','numerals');
INSERT INTO "items" VALUES(1,'plurals_selection/0001','selection','plurals');
INSERT INTO "items" VALUES(1,'letters_holdout/0001','holdout','letters');
INSERT INTO "items" VALUES(1,'numerals_holdout/0000','holdout','numerals');
INSERT INTO "items" VALUES(1,'plurals_holdout/0000','holdout','plurals');
INSERT INTO "items" VALUES(1,'letters_holdout/0002','holdout','letters');
INSERT INTO "items" VALUES(1,'numerals_holdout/0003','holdout','numerals');
INSERT INTO "items" VALUES(1,'plurals_holdout/0002','holdout','plurals');
INSERT INTO "items" VALUES(1,'letters_holdout/0000','holdout','letters');
INSERT INTO "items" VALUES(1,'numerals_holdout/0001','holdout','numerals');
INSERT INTO "items" VALUES(1,'plurals_holdout/0001','holdout','plurals');
INSERT INTO "items" VALUES(1,'letters_holdout/0003','holdout','letters');
INSERT INTO "items" VALUES(1,'numerals_holdout/0002','holdout','numerals');
INSERT INTO "items" VALUES(1,'plurals_holdout/0003','holdout','plurals');
CREATE TABLE leases (
	campaign INTEGER NOT NULL, 
	lease VARCHAR(60) NOT NULL, 
	candidate INTEGER NOT NULL, 
	split VARCHAR(10) NOT NULL, 
	block INTEGER NOT NULL, 
	worker VARCHAR(200) NOT NULL, 
	attempt INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	state VARCHAR(10) NOT NULL, 
	cause TEXT, 
	weights_digest VARCHAR(128), 
	taken FLOAT NOT NULL, 
	ended FLOAT, 
	PRIMARY KEY (campaign, lease)
);
INSERT INTO "leases" VALUES(1,'1.1',0,'search',0,'w',1,1,'done',NULL,'wacf46e448e456f424cd116352650afc04c043806be1f1c8000c44678516ea6fa',1000.0,1000.0);
INSERT INTO "leases" VALUES(1,'1.2',1,'search',0,'w',1,1,'done',NULL,'w82f1052594e70f310af605f251d7090d31a391f935da23162bb0f1ff9b682d27',1000.0,1000.0);
INSERT INTO "leases" VALUES(1,'1.3',2,'search',0,'w',1,1,'done',NULL,'w1f2508da1b527ea2a477f31a2cf9174cdc06a484d940c8423af93ece43086399',1000.0,1000.0);
INSERT INTO "leases" VALUES(1,'1.4',3,'search',0,'w',1,1,'done',NULL,'w1dffabc6b6bd18a41eb281ef92b4ab09524f020bc677a3ba103bb310851542cf',1000.0,1000.0);
INSERT INTO "leases" VALUES(1,'1.5',4,'search',0,'w',1,1,'done',NULL,'web432516f7c7798c43060fd9bf1a04e91ff17f5cec8b653af16f4d3bf74bc09d',1000.0,1000.0);
INSERT INTO "leases" VALUES(1,'1.6',5,'search',0,'w',1,1,'done',NULL,'wc29b7ab50efc9ccf77a81be85c1b755b68c88216ba5e96b6a3c08dcc02998da0',1000.0,1000.0);
INSERT INTO "leases" VALUES(1,'1.7',6,'search',0,'w',1,1,'done',NULL,'wcd906b2aea29ad949e0df079ff778a333519da265e8cad0970b8a1775b5d74ce',1000.0,1000.0);
INSERT INTO "leases" VALUES(1,'1.8',7,'search',0,'w',1,1,'done',NULL,'wc7b74f35a55941e85e639ebd9ec3bbf892c48e0bcc62907b30ffa1b31acbb9f4',1000.0,1000.0);
INSERT INTO "leases" VALUES(1,'1.9',8,'search',0,'w',1,1,'done',NULL,'wfca139c0f55ece11c6eaa9c9b20dd14de6e48977add2a7b79e615c780dc93c10',1000.0,1000.0);
INSERT INTO "leases" VALUES(1,'1.10',9,'search',0,'w',1,1,'done',NULL,'wdb3a56dafb4eb78c4558e736b183a6d89d0f23a28dafd456cdd34160140cab13',1000.0,1000.0);
INSERT INTO "leases" VALUES(1,'1.11',10,'search',0,'w',1,1,'done',NULL,'wbe1747fa111cc9b10dc62dff3723c27bfa8d27aa64c98ee4dc846dc0241d448d',1000.0,1000.0);
INSERT INTO "leases" VALUES(1,'1.12',11,'search',0,'w',1,1,'done',NULL,'w76807a02d58139a50cc69a6558e29d36a44a890f33717ecd8623326f36954e9b',1000.0,1000.0);
INSERT INTO "leases" VALUES(1,'1.13',12,'search',0,'w',1,1,'done',NULL,'w66097465efc8a940174f436523842fa7e40cbcc568ad189b41841fba5277fb59',1000.0,1000.0);
INSERT INTO "leases" VALUES(1,'1.14',13,'search',0,'w',1,1,'running',NULL,NULL,1000.0,NULL);
CREATE TABLE ledger (
	campaign INTEGER NOT NULL, 
	candidate INTEGER NOT NULL, 
	reason VARCHAR(40) NOT NULL, 
	items INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	at FLOAT NOT NULL, 
	PRIMARY KEY (campaign, candidate, reason)
);
CREATE INDEX ix_candidates_recipe_hash ON candidates (recipe_hash);
COMMIT;
